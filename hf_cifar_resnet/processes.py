"""
The processes of a run that a launcher started: whether they work together, what rank 0 decides, and how they end.

Which rank does what, everywhere in this package:

- All processes build data and model, train and evaluate. What has to be equal in all of them is checked by
  [`check_same`], or decided by rank 0 in [`decide_on_rank_0`], which also raises its error in all of them.
- Rank 0 alone prints, logs warnings, writes files, and speaks to the Hub; also where nodes do not share a disk. Code
  asks [`is_rank_0`]; a callback of the Trainer asks `state.is_world_process_zero`, which is the same.
- Every process writes only what is its own: the `rng_state_*` and `train_metrics_*` of its rank in a checkpoint.
"""

import atexit
import gc
import logging
import math
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch.distributed import Store, TCPStore  # pyright: ignore[reportPrivateImportUsage] (they are documented)

from .errors import explained

if TYPE_CHECKING:
    from transformers import TrainingArguments

logger: logging.Logger = logging.getLogger(__name__)
Decision = TypeVar("Decision")
# Seconds of silence, after which processes that have not started yet are named.
PATIENCE = 20.0
# Seconds in which a new file has to be seen by the other nodes: NFS may keep what it knows of a folder for a minute.
SEEN_WITHIN = 65.0
SAME_DATA = "give all nodes the same copy of the data"
KEY_PREFIX = "hf_cifar_resnet"  # of keys in the store of a process group
DEFAULT_PORT = 29500  # Accelerate's
# Environment variables that launchers set.
MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", *MPI_SIZES)


def is_launched() -> bool:
    return os.environ.get("LOCAL_RANK", "-1") != "-1"  # which stands for a process without a launcher


def is_rank_0() -> bool:
    """Whether this is the first process of all nodes, before and after the process group is made."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return read_count("RANK", 0) == 0 or read_count("WORLD_SIZE", 1) == 1


@cache
def warn_once(message: str) -> None:
    """Log a warning, on rank 0 alone, and only the first time in this process."""
    if is_rank_0():
        logger.warning(message)


@contextmanager
def wait_for_processes(timeout: float) -> Iterator[None]:
    """
    Wait until all processes have started that the launcher's environment variables promise; they make a process group
    within the context. If some are missing after [`PATIENCE`] seconds, log a warning; after `timeout`,
    raise `ValueError`.

    PyTorch itself would wait for them without a word, also where a variable was left behind by a launcher.
    """
    size, rank = read_count("WORLD_SIZE", 1), read_count("RANK", 0)
    # Accelerate makes a process group where it finds one of these.
    found = [name for name in MPI_SIZES if read_count(name, 1) > 1]
    if is_launched():
        found.append("LOCAL_RANK")
    if found and "MASTER_ADDR" not in os.environ:
        raise ValueError(
            f"{found[0]}={os.environ[found[0]]} says that a launcher started this process, but no MASTER_ADDR says "
            f"where the others are: {_how_to_run_alone()}"
        )
    if size == 1 or torch.distributed.is_initialized():
        yield
        return
    if "MASTER_ADDR" not in os.environ or rank >= size:
        raise ValueError(
            f"WORLD_SIZE={size} promises {size} processes, but RANK={rank} and MASTER_ADDR="
            f"{os.environ.get('MASTER_ADDR', '')} do not say how they find each other: {_how_to_run_alone()}"
        )
    began, patience, store = time.monotonic(), PATIENCE, None
    while True:
        left = timeout - (time.monotonic() - began)
        try:
            store = store or _connect(size, rank, max(1.0, min(PATIENCE, left)))
            missing = _register(store, size, rank)
        except torch.distributed.DistError as error:
            if "EADDRINUSE" in str(error):
                port = os.environ.get("MASTER_PORT", DEFAULT_PORT)
                raise ValueError(f"MASTER_PORT={port} is taken: choose another; {_how_to_run_alone()}") from None
            store, missing = None, [0]
        if not missing:
            break
        waited = time.monotonic() - began
        if waited > min(patience, timeout):
            few = ", ".join(map(str, missing[:8]))
            if len(missing) > 8:
                few += ", ..."
            text = f"{len(missing)} of the {size} processes that WORLD_SIZE={size} promises did not start within "
            text += f"{waited:.0f} seconds (RANK {few}), or do not reach MASTER_ADDR={os.environ['MASTER_ADDR']}"
            text += f"; {_how_to_run_alone()}"
            if waited > timeout:
                raise ValueError(text)
            if rank == 0 or store is None:  # the others reach rank 0, which reports them
                logger.warning("Waiting: %s", text)
            patience = math.inf
        time.sleep(0.05)
    yield  # the store of rank 0 lasts until the process group has its own


def read_count(name: str, default: int) -> int:
    """Return the number that an environment variable of a launcher has. Raises `ValueError` if it is none."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise ValueError(f"the environment variable {name}={text} is no number: {_how_to_run_alone()}")
    return int(text)


def _connect(size: int, rank: int, timeout: float) -> Store:
    """Return the store through which a process group will be made, too."""
    port = read_count("MASTER_PORT", DEFAULT_PORT)
    if not 0 < port < 2**16:
        raise ValueError(f"the environment variable MASTER_PORT={port} is no port: {_how_to_run_alone()}")
    hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    return TCPStore(
        os.environ["MASTER_ADDR"],
        port,
        size,
        is_master=hosts,
        timeout=timedelta(seconds=timeout),
        wait_for_workers=False,
        multi_tenant=hosts,
    )


def _register(store: Store, size: int, rank: int) -> list[int]:
    """Register this process in the store, and return the ranks of all that are not registered yet."""
    # A launcher may start the processes anew after a failure.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store.set(f"{KEY_PREFIX}/{attempt}/{rank}", "here")
    return [other for other in range(size) if not store.check([f"{KEY_PREFIX}/{attempt}/{other}"])]


def _how_to_run_alone() -> str:
    left = [name for name in LAUNCHER if name in os.environ]
    return f"if no launcher started this process, unset {', '.join(left)}"


def check_processes(args: "TrainingArguments") -> None:
    """
    Raise `ValueError` if the launcher set up fewer processes than it was asked for.

    On a CPU `accelerate launch` starts one process whatever `--num_processes` says, unless `--multi_gpu` is given, and
    then the processes do not find each other without `--use_cpu`.
    """
    hint = "On a CPU: accelerate launch --multi_gpu --num_processes N train.py --use_cpu"
    promised = read_count("WORLD_SIZE", 1)
    args.device  # noqa: B018 (initialises devices and process group)
    if promised != args.world_size:
        raise ValueError(
            f"WORLD_SIZE={promised} promises {promised} processes, but they do not work together: each would train on "
            f"its own into the same folder. {hint}; {_how_to_run_alone()}"
        )
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if by_accelerate and "WORLD_SIZE" not in os.environ:
        raise ValueError(f"accelerate launch was asked for several processes but started one. {hint}")


def decide_on_rank_0(decide: Callable[[], Decision]) -> Decision:
    """Return what `decide()` returns on rank 0, or raise its `ValueError`, in every process alike."""
    from accelerate.utils import broadcast_object_list

    decision = error = None
    if is_rank_0():
        try:
            decision = decide()
        except (ValueError, OSError) as raised:
            error = raised
    decision, error = broadcast_object_list([decision, error])
    if error is not None:
        raise error
    return decision


def check_same(values: dict[str, object], hint: str) -> None:
    """Raise `ValueError` in every process if a value, which is given with its name, is not the same in all of them."""
    from accelerate.utils import gather_object

    (first, expected), *others = gather_object([(socket.gethostname(), values)])
    for rank, (host, found) in enumerate(others, 1):
        for name in expected | found:
            if expected.get(name) != found.get(name):
                raise ValueError(f"the {name} of rank {rank} (on {host}) and of rank 0 (on {first}) differ: {hint}")


def check_shared_folder(folder: str | Path) -> None:
    """Raise `ValueError` in every process if one of them does not see what rank 0 writes into a folder."""
    from accelerate.utils import gather_object

    path = Path(folder, decide_on_rank_0(lambda: _write_empty_file(folder)))
    began, host = time.monotonic(), socket.gethostname()
    while not (seen := path.exists()) and time.monotonic() - began < SEEN_WITHIN:
        time.sleep(0.05)
    found = gather_object([(host, seen)])
    if is_rank_0():
        path.unlink(missing_ok=True)
    if without_file := [f"rank {rank} (on {host})" for rank, (host, seen) in enumerate(found) if not seen]:
        raise ValueError(
            f"the output folder {folder} is not shared: {without_file[0]} does not see what rank 0 (on {found[0][0]}) "
            "writes there. Choose an output_dir on a disk that all nodes share"
        )


def _write_empty_file(folder: str | Path) -> str:
    with explained(f"the output folder {folder} cannot be written", OSError):
        descriptor, path = tempfile.mkstemp(prefix=".shared-", dir=folder)
        os.close(descriptor)
    return Path(path).name


def destroy_process_group_at_exit() -> None:
    """
    Destroy the process group when Python exits. Not to be called after a failure: it may wait for a lost process.

    A thread of gloo that frees a tensor during the interpreter's shutdown would abort the process
    (https://github.com/pytorch/pytorch/pull/179291).
    """

    @atexit.register
    def leave() -> None:
        if torch.distributed.is_initialized():
            # Otherwise a Trainer's DistributedDataParallel may still hold the group.
            gc.collect()
            torch.distributed.destroy_process_group()
