"""
Save checkpoints atomically: one is complete when its manifest, which is written last, lists all of its files.

transformers writes a checkpoint in every process of a run, and rank 0 alone completes, verifies and deletes them.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from accelerate import PartialState
from safetensors import SafetensorError
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..documents import flush_to_disk, follow_umask, read_json, replacing_files, write_json
from ..errors import one_line
from ..processes import is_rank_0
from ..runs.files import list_checkpoints, step_of

MANIFEST, TRAINER_STATE = "manifest.json", "trainer_state.json"
EMA_FILE = "ema.safetensors"

# The manifest


def write_manifest(folder: Path) -> None:
    """Write `manifest.json`, with the SHA-256 of every file, and flush all files to the disk. Raises `OSError`."""
    files = {name: {"sha256": _sha256(path)} for name, path in _list_files(folder).items()}
    for path in (*_list_files(folder).values(), folder.parent):
        flush_to_disk(path)
    write_json({"files": files}, folder / MANIFEST)


def verify_checkpoint(folder: Path) -> None:
    """
    Raise `ValueError` for a checkpoint that is not complete, or not as its manifest says; `OSError` if a file of it
    cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no checkpoint {folder}")
    if not is_complete(folder):
        raise ValueError(f"the checkpoint {folder} is not complete: it has no {MANIFEST}, which is written last")
    expected, found = _read_manifest(folder), _list_files(folder)
    if missing := sorted(expected.keys() - found.keys()):
        raise ValueError(f"the checkpoint {folder} is damaged: {missing[0]} is missing")
    if foreign := sorted(found.keys() - expected.keys()):
        raise ValueError(f"the checkpoint {folder} is damaged: {foreign[0]} does not belong to it")
    for name, sha256 in expected.items():
        if _sha256(found[name]) != sha256:
            raise ValueError(f"the checkpoint {folder} is damaged: {name} has been changed")


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end; [`verify_checkpoint`] checks what happened to it since."""
    return (checkpoint / MANIFEST).is_file()


def find_last_complete(folder: str | os.PathLike[str]) -> Path | None:
    """Return the last checkpoint that was written to its end, or None."""
    complete = [checkpoint for checkpoint in list_checkpoints(folder) if is_complete(checkpoint)]
    return complete[-1] if complete else None


def _read_manifest(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by its name."""
    damaged = f"the checkpoint {folder} is damaged: its {MANIFEST}"
    try:
        files = read_json(folder / MANIFEST).get("files")
    except ValueError as error:
        raise ValueError(f"{damaged} cannot be read: {error}") from error
    sums = {}
    for name, entry in files.items() if isinstance(files, dict) else [("", None)]:
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
            raise ValueError(f"{damaged} does not list its files with their sha256")
        sums[name] = entry["sha256"]
    return sums


def _list_files(folder: Path) -> dict[str, Path]:
    """Return all files that a Trainer might read, by their names in the manifest."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path for path in paths if path != folder / MANIFEST}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Changes of what is saved


def rotate_checkpoints(folder: str | os.PathLike[str], limit: int | None, keep: Collection[Path]) -> None:
    """Delete incomplete checkpoints, then the oldest, until `limit` are left (None or 0: all), but none of `keep`."""
    if limit is None or limit <= 0:
        return
    checkpoints = list_checkpoints(folder)
    kept = {path.resolve() for path in keep}
    free = sorted((path for path in checkpoints if path.resolve() not in kept), key=is_complete)
    for path in free[: max(0, len(checkpoints) - limit)]:
        shutil.rmtree(path, ignore_errors=True)


def copy_checkpoint(checkpoint: Path, folder: str | os.PathLike[str]) -> Path:
    """
    Copy a checkpoint atomically into the folder of another run, and return the copy. Raises `ValueError` if another
    checkpoint of this name is there, and `OSError` if it cannot be written.
    """
    copy = Path(folder, checkpoint.name)
    if copy.is_dir():
        if is_complete(copy) and _read_manifest(copy) == _read_manifest(checkpoint):
            return copy
        if is_complete(copy):
            raise ValueError(f"{folder} holds {copy.name} of another run: choose another output_dir")
        shutil.rmtree(copy)
    with replacing_files(folder) as temporary:
        shutil.copytree(checkpoint, temporary / checkpoint.name)
    return copy


class CheckpointCallback(TrainerCallback):
    """
    Completes what transformers writes as a checkpoint, with the files that `write_more(folder)` adds in every process
    and the manifest. Only then are older checkpoints deleted, but never the best and the last one.

    Args:
        limit: how many checkpoints are kept; None keeps all.
        write_more: called in every process with the folder of a checkpoint, to write files of its own into it.
    """

    priority: ClassVar[int] = 100  # others may read the checkpoint, so it is completed first

    def __init__(self, limit: int | None, write_more: Callable[[Path], None]) -> None:
        self.limit: int | None = limit
        self.write_more: Callable[[Path], None] = write_more
        self._bytes = 0
        self._writing: Path | None = None  # the checkpoint that has begun and is not complete

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model: nn.Module = kwargs["model"]
        weights = sum(tensor.nbytes for tensor in model.state_dict().values())
        # An upper bound: weights, the two moments of Adam, averages, and small files.
        copies = 4 if getattr(args, "ema_decay", 0) else 3
        self._bytes = copies * weights + 2**20
        if state.is_world_process_zero and args.save_strategy != "no":
            # One more than is kept, since the oldest is deleted when the newest is complete; and the final model.
            needed = (max(self.limit or 1, 1) + 1) * self._bytes + weights
            _check_free_space(Path(args.output_dir or "."), needed, "training")

    def begin(self, checkpoint: Path) -> None:
        """Prepare a checkpoint, which is then written in place. Called in every process."""
        if is_rank_0():
            _check_free_space(checkpoint.parent, self._bytes, f"the checkpoint of step {step_of(checkpoint)}")
            shutil.rmtree(checkpoint, ignore_errors=True)  # it is damaged or abandoned
        PartialState().wait_for_everyone()
        self._writing = checkpoint

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._writing is None:  # a callback asked for a save twice in one step
            return
        self.write_more(self._writing)
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            follow_umask(self._writing)
            write_manifest(self._writing)
            keep = [self._writing]
            if state.best_model_checkpoint:
                keep.append(Path(state.best_model_checkpoint))
            rotate_checkpoints(self._writing.parent, self.limit, keep)
        PartialState().wait_for_everyone()
        self._writing = None

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # After the log of its summary, the Trainer loads the best model without checking it.
        if "train_runtime" in kwargs["logs"] and args.load_best_model_at_end and state.best_model_checkpoint:
            try:
                verify_checkpoint(Path(state.best_model_checkpoint))
            except ValueError as error:
                raise ValueError(f"training has ended, but its best model cannot be loaded: {error}") from error

    @contextmanager
    def reporting_failures(self) -> Iterator[None]:
        """Delete a checkpoint that cannot be written, and raise `OSError` with one line about it."""
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            # What PyTorch and safetensors raise when a file cannot be written.
            failed = isinstance(error, OSError) or any(x in str(error) for x in ("PytorchStreamWriter", "I/O error"))
            if self._writing is None or not failed:
                raise
            folder, step = self._writing.parent, step_of(self._writing)
            shutil.rmtree(self._writing, ignore_errors=True)
            self._writing = None
            last = find_last_complete(folder)
            left = f"{last} is the last one" if last else "there is none before it"
            reasons = [getattr(each, "strerror", None) for each in (error, error.__cause__)]
            reason = reasons[0] or reasons[1] or one_line(error)
            if not isinstance(error, OSError) and shutil.disk_usage(folder).free < 2**20:
                reason = os.strerror(errno.ENOSPC)  # which PyTorch's exceptions do not say
            raise OSError(
                f"the checkpoint of step {step} could not be written into {folder}: {reason}; {left}"
            ) from error


def _check_free_space(folder: Path, needed: float, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{what} may take {needed / 1e6:,.0f} MB, and the disk of {folder} has {free / 1e6:,.0f} MB left: "
            "make room, or choose another output_dir"
        )
