"""Where a run is: its processes, its folder, and the checkpoint it goes on from."""

import atexit
import contextlib
import gc
import os
import re
import tempfile
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list

from .. import hub
from ..errors import UserError
from ..reporting.records import METRICS_JSON, STUDY_JSON
from . import checkpoints, resume
from .portable import read_portable


def check_processes(args):
    """
    Stops where the launcher promised more processes than work together.

    `accelerate launch` starts one process on a CPU whatever `--num_processes` says, unless `--multi_gpu` is given too,
    and then the processes do not find each other without `--use_cpu`.
    """
    hint = "On a CPU: accelerate launch --multi_gpu --num_processes N train.py --use_cpu"
    promised = int(os.environ.get("WORLD_SIZE", 1))
    try:
        args.device  # noqa: B018 (sets the devices up, with all that the arguments ask for)
    except (ImportError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error
    if promised != args.world_size:
        raise UserError(
            f"the launcher started {promised} processes, but they do not work together: each would train on its own "
            f"into the same folder. {hint}"
        )
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if by_accelerate and "WORLD_SIZE" not in os.environ:
        raise UserError(f"accelerate launch was asked for several processes but started one. {hint}")


def leave_processes_at_exit():
    """
    Ends the process group when Python exits; for programs whose work is done, in all processes.

    A thread of gloo that still lets go of a tensor while Python is being torn down aborts the process
    (https://github.com/pytorch/pytorch/pull/179291). After a failure it stays: it may wait for ever for a lost peer.
    """

    def leave():
        if torch.distributed.is_initialized():
            # Its threads are waited for once nothing holds it, such as a Trainer's DistributedDataParallel.
            gc.collect()
            torch.distributed.destroy_process_group()

    atexit.register(leave)


def output_folder(args, name):
    """
    The folder of this run, not created yet: `--output_dir`, or `runs/NAME`, numbered where that exists.

    Raises:
        UserError: if `--output_dir` holds a study, or a run already that this one does not resume.
    """
    if not args.output_dir_given:
        if _is_auto(args):
            raise UserError("--resume_from_checkpoint auto needs --output_dir, the folder to look in")
        chosen = [_default_folder(args, name)]
        if args.world_size > 1:
            # One process decides, before any creates it.
            broadcast_object_list(chosen)
        folder = Path(chosen[0])
    else:
        folder = Path(args.output_dir)
        if (folder / STUDY_JSON).exists():
            raise UserError(f"--output_dir {folder} holds a study, whose files a run would replace: choose another")
        if not args.resume_from_checkpoint and args.process_index == 0 and holds_run(folder):
            raise UserError(
                f"--output_dir {folder} holds a run already: add --resume_from_checkpoint auto to continue it, "
                "or choose another folder"
            )
    return str(folder)


@contextlib.contextmanager
def run_folder(args):
    """
    Makes the folder of the run, in one process, and keeps other runs out of it within. Where an error ends it before
    anything was written, the folder goes again, and those above it that were made for it.

    Raises:
        UserError: if it cannot be written, or another run is writing into it.
    """
    if args.process_index > 0:
        yield
        return
    folder = Path(args.output_dir)
    missing = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(f"the output folder {folder} cannot be written: {error.strerror or error}") from error
        with checkpoints.locked(folder):
            yield
    except Exception:
        with contextlib.suppress(OSError):  # one that is not empty
            for path in missing:
                path.rmdir()
        raise


def _default_folder(args, name):
    if args.resume_from_checkpoint and not _wants_last(args) and not _is_on_hub(args):
        return str(Path(args.resume_from_checkpoint).parent)
    taken = [folder.name for folder in Path("runs").iterdir()] if Path("runs").is_dir() else []
    matches = [re.fullmatch(re.escape(name) + r"(?:-(\d+))?", other) for other in taken]
    numbers = [int(match[1] or 1) for match in matches if match]
    number = max(numbers, default=0 if not _wants_last(args) else 1) + (not _wants_last(args))
    return str(Path("runs", name if number == 1 else f"{name}-{number}"))


def holds_run(folder):
    """Whether a folder has what a finished run, or one to resume, leaves."""
    return (folder / METRICS_JSON).exists() or bool(checkpoints.numbered(folder))


def _wants_last(args):
    return str(args.resume_from_checkpoint).lower() == "true" or _is_auto(args)


def _is_auto(args):
    return str(args.resume_from_checkpoint).lower() == "auto"


def _is_on_hub(args):
    # With the @, since `runs/checkpoint-9` looks like user/repo too.
    value = str(args.resume_from_checkpoint)
    return "@" in value and hub.is_reference(value)


def resume_point(args):
    """
    The checkpoint folder to go on from, or None: `--resume_from_checkpoint FOLDER`, `true` for the last whole one,
    `auto` for that or a new training, or `user/repo@branch`, which is fetched into the run's folder.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    if not args.resume_from_checkpoint:
        return None
    if _is_on_hub(args):
        with args.main_process_first(desc="fetching the checkpoint"):
            return _fetch(args)
    say = print if args.process_index == 0 else None
    if _is_auto(args):
        return resume.newest(args.output_dir, args.load_best_model_at_end, say)
    given = True if _wants_last(args) else args.resume_from_checkpoint
    return resume.find(given, args.output_dir, args.load_best_model_at_end, say)


def _fetch(args):
    """One process fetches; the others find what it wrote."""
    if args.process_index > 0:
        return resume.newest(args.output_dir, args.load_best_model_at_end)
    if checkpoints.numbered(args.output_dir):
        raise UserError(
            f"--resume_from_checkpoint: {args.output_dir} has checkpoints of its own; choose another folder"
        )
    try:
        return read_portable(hub.download(args.resume_from_checkpoint), args.output_dir)
    except hub.HubError as error:
        raise UserError(f"--resume_from_checkpoint {args.resume_from_checkpoint}: {error}") from error
