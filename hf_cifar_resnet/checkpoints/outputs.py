"""Check the files that commands write: they never replace a run or an input."""

import errno
import os
from pathlib import Path

from ..documents import is_device
from ..errors import UserError
from ..reporting.run_files import RUN_FILES, holds_model_or_run
from .save import MANIFEST, TRAINER_STATE


def check_output(flag, path, inputs=(), ending=None):
    """
    Check the file that `flag` names, before anything is computed. Raises [`UserError`] if it has another ending, is one
    of the inputs or a file of a run or checkpoint, or cannot be written.
    """
    path = Path(path)
    if ending and path.suffix.lower() != ending:
        raise UserError(f"{flag} {path} must end in {ending}")
    if is_device(path):
        return
    if path.exists() and any(os.path.exists(other) and os.path.samefile(path, other) for other in inputs):
        raise UserError(f"{flag} {path} is one of the inputs, which it would replace: choose another name")
    place = Path(os.path.realpath(path))
    _check_place(flag, path, place.parent)
    if any(map(place.match, RUN_FILES)) and holds_model_or_run(place.parent):
        raise UserError(f"{flag} {path} is a file of the run in {place.parent}: choose another name")
    if place.is_dir():
        raise UserError(f"{flag} {path} cannot be written: {os.strerror(errno.EISDIR)}")


def check_output_folder(flag, folder):
    """Check the folder that `flag` names, which need not exist, as [`check_output`] does. It may be no run either."""
    place = Path(os.path.realpath(folder))
    _check_place(flag, folder, next(parent for parent in (place, *place.parents) if parent.exists()))
    if holds_model_or_run(place):
        raise UserError(f"{flag} {folder} is the folder of a run: choose another, such as {Path(folder, 'analysis')}")


def _check_place(flag, path, folder):
    """Raise [`UserError`] if a new file or folder cannot be made in `folder`, or would damage a checkpoint."""
    for parent in (folder, *folder.parents):
        if (parent / MANIFEST).is_file() and (parent / TRAINER_STATE).is_file():
            raise UserError(
                f"{flag} {path} lies in a checkpoint, which could not be resumed with another file in it: "
                "choose another folder"
            )
    if not folder.is_dir():
        raise UserError(f"{flag} {path} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{flag} {path} cannot be written: {os.strerror(errno.EACCES)}")
