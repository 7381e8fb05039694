"""Files that commands write: never over a run or an input, and atomically."""

import errno
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..reporting.run_files import is_of_run, is_run
from .save import MANIFEST, TRAINER_STATE


def check_output(flag, path, inputs=(), ending=None):
    """
    Makes sure, before anything is computed, that a file can be written and replaces nothing that is still needed.

    Args:
        flag (`str`): what names the file, for the message.
        path (`str` or `Path`): of the file.
        inputs (list of paths): what the command reads.
        ending (`str`, *optional*): that the name must have.

    Raises:
        UserError: if it has another ending, is one of the inputs or a file of a run, or cannot be written.
    """
    path = Path(path)
    if ending and path.suffix.lower() != ending:
        raise UserError(f"{flag} {path} must end in {ending}")
    if _is_special(path):
        return
    if any(_is_same(path, other) for other in inputs):
        raise UserError(f"{flag} {path} is one of the inputs, which it would replace: choose another name")
    place = Path(os.path.realpath(path))
    _check_no_checkpoint(flag, place)
    if is_of_run(place.name) and is_run(place.parent):
        raise UserError(f"{flag} {path} is a file of the run in {place.parent}: choose another name")
    if reason := _why_not(place):
        raise UserError(f"{flag} {path} cannot be written: {reason}")


def check_output_folder(flag, folder):
    """
    The same for a folder of files, which is created if need be.

    Raises:
        UserError: if it is a run or lies in a checkpoint, where files of others do harm, or cannot be written.
    """
    place = Path(os.path.realpath(folder))
    _check_no_checkpoint(flag, place)
    if is_run(place):
        raise UserError(f"{flag} {folder} is the folder of a run: choose another, such as {Path(folder, 'analysis')}")
    found = next(parent for parent in (place, *place.parents) if parent.exists())
    if reason := _why_not(found / "file"):
        raise UserError(f"{flag} {folder} cannot be written: {reason}")


@contextmanager
def writing(path):
    """
    A `Path` to write a file to, which takes its place at the end. After an error the place is as it was.

    What is no regular file, such as a pipe, is written to directly.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        if _is_special(Path(path)):
            yield Path(path)
            return
        place = Path(os.path.realpath(path))
        # In the same folder, or else it could not be renamed; hidden, so that nothing takes it for a result.
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".hf-cifar-resnet-") as aside:
            yield Path(aside, place.name)
            os.replace(Path(aside, place.name), place)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def _is_special(path):
    """Whether it is a pipe, a terminal or another device."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _is_same(path, other):
    return path.exists() and os.path.exists(other) and os.path.samefile(path, other)


def _check_no_checkpoint(flag, place):
    for folder in (place, *place.parents):
        if (folder / MANIFEST).is_file() and (folder / TRAINER_STATE).is_file():
            raise UserError(
                f"{flag} {place} lies in a checkpoint, from which training could not be resumed with a file more: "
                "choose another folder"
            )


def _why_not(place):
    if place.is_dir():
        return os.strerror(errno.EISDIR)
    if not place.parent.is_dir():
        return f"there is no folder {place.parent}"
    return None if os.access(place.parent, os.W_OK) else os.strerror(errno.EACCES)
