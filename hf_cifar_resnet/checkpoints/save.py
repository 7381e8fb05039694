"""Save checkpoints atomically: one is complete when its manifest, which is written last, lists all of its files."""

import errno
import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from accelerate import PartialState
from safetensors import SafetensorError
from transformers import TrainerCallback

from ..documents import flush_to_disk, follow_umask, read_json, write_json
from ..errors import UserError, one_line
from ..runs.files import list_checkpoints, step_of

MANIFEST, TRAINER_STATE = "manifest.json", "trainer_state.json"
EMA_FILE = "ema.safetensors"


def write_manifest(folder):
    """Write `manifest.json`, with the SHA-256 of every file, and flush all files to the disk."""
    files = {name: {"sha256": _sha256(path)} for name, path in _files(folder).items()}
    for path in (*_files(folder).values(), folder.parent):
        flush_to_disk(path)
    write_json({"files": files}, folder / MANIFEST)


def find_damage(folder):
    """Return how a checkpoint differs from its manifest, in a few words, or None where it does not."""
    if not folder.is_dir():
        return "it is not there"
    if not (folder / MANIFEST).is_file():
        return f"it has no {MANIFEST}, so it was not written to its end"
    try:
        listed, found = read_json(folder / MANIFEST)["files"], _files(folder)
        if differing := sorted(listed.keys() ^ found.keys()):
            return f"{differing[0]} {'is missing' if differing[0] in listed else 'does not belong to it'}"
        changed = [name for name, entry in listed.items() if _sha256(found[name]) != entry["sha256"]]
        return f"{changed[0]} has been changed" if changed else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"its {MANIFEST} or a file of it cannot be read: {one_line(error)}"


def _files(folder):
    """All files that a Trainer might read, by their names in the manifest."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path for path in paths if path != folder / MANIFEST}


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rotate_checkpoints(folder, limit, keep):
    """Delete incomplete checkpoints, then the oldest, until `limit` are left (None: all stay), but none of `keep`."""
    checkpoints, keep = list_checkpoints(folder), {Path(path).resolve() for path in keep}
    free = sorted((path for path in checkpoints if path.resolve() not in keep), key=is_complete)
    for path in free[: max(0, len(checkpoints) - limit)] if limit else []:
        shutil.rmtree(path, ignore_errors=True)


def is_complete(checkpoint):
    """Whether a checkpoint was written to its end; [`find_damage`] checks what happened to it since."""
    return (checkpoint / MANIFEST).is_file()


def find_last_complete(folder):
    """Return the last checkpoint that was written to its end, or None."""
    return next(filter(is_complete, reversed(list_checkpoints(folder))), None)


class CheckpointCallback(TrainerCallback):
    """
    Complete what transformers writes as a checkpoint, with the files that `write_more(folder)` adds in every process
    and the manifest. Only then are older checkpoints deleted down to `limit`, but never the best and the last one.
    """

    priority: ClassVar[int] = 100  # others may read the checkpoint, so it is completed first

    def __init__(self, limit, write_more):
        self.limit, self.write_more = limit, write_more
        self._bytes, self._writing = 0, None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        weights = sum(tensor.nbytes for tensor in model.state_dict().values())
        # An upper bound: weights, the two moments of Adam, averages, and small files.
        self._bytes = (3 + bool(args.ema_decay)) * weights + 2**20
        if state.is_world_process_zero and args.save_strategy != "no":
            # One more than is kept, since the oldest is deleted when the newest is complete; and the final model.
            _check_free_space(args.output_dir, ((self.limit or 1) + 1) * self._bytes + weights, "training")

    def begin(self, checkpoint):
        """Prepare a checkpoint, which is then written in place. Called in every process."""
        if PartialState().is_main_process:
            _check_free_space(checkpoint.parent, self._bytes, f"the checkpoint of step {step_of(checkpoint)}")
            shutil.rmtree(checkpoint, ignore_errors=True)  # it is damaged or abandoned
        PartialState().wait_for_everyone()
        self._writing = checkpoint

    def on_save(self, args, state, control, **kwargs):
        self.write_more(self._writing)
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            follow_umask(self._writing)
            write_manifest(self._writing)
            rotate_checkpoints(args.output_dir, self.limit, filter(None, (self._writing, state.best_model_checkpoint)))
        PartialState().wait_for_everyone()
        self._writing = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        # After the log of its summary, the Trainer loads the best model without checking it.
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        if "train_runtime" in logs and best and (reason := find_damage(Path(best))):
            raise UserError(f"training has ended, but its best model, {best}, cannot be loaded: {reason}")

    @contextmanager
    def reporting_failures(self):
        """Delete a checkpoint that cannot be written, and report it in one line."""
        try:
            yield
        except (OSError, RuntimeError, SafetensorError, UserError) as error:
            if isinstance(error, UserError) and isinstance(error.__cause__, OSError):  # of one of our own files
                error = error.__cause__
            # What PyTorch and safetensors say when a file cannot be written.
            failed = isinstance(error, OSError) or any(x in str(error) for x in ("PytorchStreamWriter", "I/O error"))
            if self._writing is None or not failed:
                raise
            folder, step = self._writing.parent, step_of(self._writing)
            shutil.rmtree(self._writing, ignore_errors=True)
            last = find_last_complete(folder)
            left = f"{last} is the last one" if last else "there is none before it"
            reason = getattr(error, "strerror", None) or one_line(error)
            if not isinstance(error, OSError) and shutil.disk_usage(folder).free < 2**20:
                reason = os.strerror(errno.ENOSPC)  # which PyTorch's exceptions do not say
            raise UserError(
                f"the checkpoint of step {step} could not be written into {folder}: {reason}; {left}"
            ) from error


def _check_free_space(folder, needed, what):
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{what} may take {needed / 1e6:,.0f} MB, and the disk of {folder} has {free / 1e6:,.0f} MB left: "
            "make room, or choose another --output_dir"
        )
