"""The processes of a run that a launcher started: whether they work together, and how they end."""

import atexit
import gc
import os

import torch

from .errors import UserError, as_user_error


def is_launched():
    return "LOCAL_RANK" in os.environ


def is_rank_0():
    return int(os.environ.get("RANK", 0)) == 0


def check_processes(args):
    """
    Raise [`UserError`] if the launcher set up fewer processes than it was asked for.

    On a CPU `accelerate launch` starts one process whatever `--num_processes` says, unless `--multi_gpu` is given, and
    then the processes do not find each other without `--use_cpu`.
    """
    hint = "On a CPU: accelerate launch --multi_gpu --num_processes N train.py --use_cpu"
    promised = int(os.environ.get("WORLD_SIZE", 1))
    with as_user_error("", ImportError, ValueError):
        args.device  # noqa: B018 (initialises devices and process group)
    if promised != args.world_size:
        raise UserError(
            f"the launcher started {promised} processes, but they do not work together: each would train on its own "
            f"into the same folder. {hint}"
        )
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if by_accelerate and "WORLD_SIZE" not in os.environ:
        raise UserError(f"accelerate launch was asked for several processes but started one. {hint}")


def destroy_process_group_at_exit():
    """
    Destroy the process group when Python exits. Not to be called after a failure: it may wait for a lost process.

    A thread of gloo that frees a tensor during the interpreter's shutdown would abort the process
    (https://github.com/pytorch/pytorch/pull/179291).
    """

    @atexit.register
    def leave():
        if torch.distributed.is_initialized():
            # Otherwise a Trainer's DistributedDataParallel may still hold the group.
            gc.collect()
            torch.distributed.destroy_process_group()
