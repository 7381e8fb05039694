"""Files that commands write: atomically, and never over a run or an input."""

import errno
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..reporting.run_files import is_run, is_run_file
from .save import MANIFEST, TRAINER_STATE


def check_output(flag, path, inputs=(), ending=None):
    """
    Check, before anything is computed, the path of a file that `flag` names. Raises [`UserError`] if it has another
    ending, is one of the inputs or a file of a run or checkpoint, or cannot be written.
    """
    path = Path(path)
    if ending and path.suffix.lower() != ending:
        raise UserError(f"{flag} {path} must end in {ending}")
    if _is_device(path):
        return
    if path.exists() and any(os.path.exists(other) and os.path.samefile(path, other) for other in inputs):
        raise UserError(f"{flag} {path} is one of the inputs, which it would replace: choose another name")
    place = Path(os.path.realpath(path))
    _check_outside_checkpoints(flag, place)
    if is_run_file(place.name) and is_run(place.parent):
        raise UserError(f"{flag} {path} is a file of the run in {place.parent}: choose another name")
    if place.is_dir():
        raise UserError(f"{flag} {path} cannot be written: {os.strerror(errno.EISDIR)}")
    _check_writable(flag, path, place.parent)


def check_output_folder(flag, folder):
    """
    Check the folder that `flag` names, which need not exist. Raises [`UserError`] if it is a run, lies in a checkpoint,
    or cannot be written.
    """
    place = Path(os.path.realpath(folder))
    _check_outside_checkpoints(flag, place)
    if is_run(place):
        raise UserError(f"{flag} {folder} is the folder of a run: choose another, such as {Path(folder, 'analysis')}")
    _check_writable(flag, folder, next(parent for parent in (place, *place.parents) if parent.exists()))


@contextmanager
def atomic_write(path):
    """
    Give a `Path` to write a file to, which is moved to `path` at the end; after an error `path` is unchanged. A pipe or
    another device is written to directly. Raises [`UserError`] if it cannot be written.
    """
    try:
        if _is_device(Path(path)):
            yield Path(path)
            return
        place = Path(os.path.realpath(path))
        # The temporary folder lies in the same folder, since a file cannot be renamed across filesystems.
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".hf-cifar-resnet-") as temporary:
            yield Path(temporary, place.name)
            os.replace(Path(temporary, place.name), place)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def _is_device(path):
    """Whether a path is a pipe, a terminal or another device."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _check_outside_checkpoints(flag, place):
    for folder in (place, *place.parents):
        if (folder / MANIFEST).is_file() and (folder / TRAINER_STATE).is_file():
            raise UserError(
                f"{flag} {place} lies in a checkpoint, which could not be resumed with another file in it: "
                "choose another folder"
            )


def _check_writable(flag, path, folder):
    if not folder.is_dir():
        raise UserError(f"{flag} {path} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{flag} {path} cannot be written: {os.strerror(errno.EACCES)}")
