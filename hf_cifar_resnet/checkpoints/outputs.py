"""
Check the files that commands write, before anything is computed: a command replaces only what it has written itself.

That is recognized by what a file contains, for which each kind has a pattern. An empty file may be replaced too.
"""

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

from ..documents import is_device
from ..runs.files import RUN_FILES, holds_model_or_run
from .save import MANIFEST, TRAINER_STATE

MAX_SEARCHED = 2**20  # bytes of the beginning, and of the end, of a file


def check_output(
    argument: str,
    path: str | os.PathLike[str],
    pattern: bytes,
    inputs: Iterable[str | os.PathLike[str]] = (),
    ending: str | None = None,
) -> None:
    """
    Check the file that an argument such as `--output` names, whose contents have a `pattern`. Raises `ValueError` if it
    has another ending, is one of the inputs, a file of a run or checkpoint or one that this command did not write, or
    cannot be written.
    """
    path = Path(path)
    if ending and path.suffix.lower() != ending:
        raise ValueError(f"{argument} {path} must end in {ending}")
    if is_device(path):
        return
    if path.exists() and any(os.path.exists(other) and os.path.samefile(path, other) for other in inputs):
        raise ValueError(f"{argument} {path} is one of the inputs, which it would replace: choose another name")
    place = Path(os.path.realpath(path))
    check_no_checkpoint(argument, path)
    _check_writable(argument, path, place.parent)
    if any(map(place.match, RUN_FILES)) and holds_model_or_run(place.parent):
        raise ValueError(f"{argument} {path} is a file of the run in {place.parent}: choose another name")
    if place.is_dir():
        raise ValueError(f"{argument} {path} cannot be written: {os.strerror(errno.EISDIR)}")
    if not is_own(place, pattern):
        raise ValueError(f"{argument} {path} is there already, and this command did not write it: choose another name")


def check_output_folder(argument: str, folder: str | os.PathLike[str], files: dict[str, bytes | None]) -> None:
    """
    Check the folder that an argument such as `--output_dir` names, which need not exist, as [`check_output`] does, and
    that it is no run. `files` are the names in it that are written, with their patterns.
    """
    place = Path(os.path.realpath(folder))
    check_no_checkpoint(argument, folder)
    _check_writable(argument, folder, next(parent for parent in (place, *place.parents) if parent.exists()))
    if holds_model_or_run(place):
        raise ValueError(
            f"{argument} {folder} is the folder of a run: choose another, such as {Path(folder, 'analysis')}"
        )
    check_replaced(argument, folder, files)


def check_replaced(argument: str, folder: str | os.PathLike[str], files: dict[str, bytes | None]) -> None:
    """
    Raise `ValueError` if one of the `files` is in a folder and not ours: these are names, or patterns of names, with
    the patterns of their contents. Where the first one is there and ours, so are the others.
    """
    record, pattern = next(iter(files.items()))
    if pattern is not None and Path(folder, record).is_file() and is_own(Path(folder, record), pattern):
        return
    for names, pattern in files.items():
        for path in sorted(Path(folder).glob(names)):
            if pattern is None or not is_own(path, pattern):
                raise ValueError(
                    f"{argument} {folder} holds {path.name}, which this command did not write and would replace: "
                    "choose another folder"
                )


def is_own(path: Path, pattern: bytes) -> bool:
    """Whether a file is absent, empty, or has the pattern in its contents."""
    if not path.exists():
        return True
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        content = file.read(MAX_SEARCHED)
        file.seek(max(0, path.stat().st_size - MAX_SEARCHED))
        content += file.read(MAX_SEARCHED)
    return not content or re.search(pattern, content, re.DOTALL) is not None


def check_no_checkpoint(argument: str, path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` for a path in a checkpoint, which would be damaged by it."""
    for parent in Path(os.path.realpath(path), "file").parents:
        if (parent / MANIFEST).is_file() and (parent / TRAINER_STATE).is_file():
            raise ValueError(
                f"{argument} {path} lies in a checkpoint, which could not be resumed with another file in it: "
                "choose another folder"
            )


def _check_writable(argument: str, path: str | os.PathLike[str], folder: Path) -> None:
    """Raise `ValueError` if a new file or folder cannot be made in `folder`."""
    if not folder.is_dir():
        raise ValueError(f"{argument} {path} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{argument} {path} cannot be written: {os.strerror(errno.EACCES)}")
