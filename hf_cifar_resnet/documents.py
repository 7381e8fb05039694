"""
Files: JSON and YAML of unknown origin are read safely (limited size, plain values only, errors of one line), and all
that this package writes is written atomically.
"""

import csv
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from .errors import one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MAX_JSON, MAX_YAML = 2**24, 2**20  # bytes
# How the name of a temporary directory begins, in which files are written before they are renamed.
TEMPORARY = ".hf-cifar-resnet-"

# Read


def read_json(path: str | os.PathLike[str], max_size: int = MAX_JSON) -> dict[str, Any]:
    """
    Return the object in a JSON file of at most `max_size` bytes. Raises `OSError`, or `ValueError` in one line that
    does not name the file.
    """
    try:
        content = json.loads(_read_text(path, max_size))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError("it must hold a JSON object: {...}")
    return content


def read_yaml(path: str | os.PathLike[str]) -> dict[Any, Any]:
    """
    Return the mapping in a YAML 1.2 file, in which 1e-3 is a number and `no` is a string, unlike in the YAML 1.1 of
    PyYAML. Raises as [`read_json`] does, also for a repeated key.
    """
    content = parse_yaml(_read_text(path, MAX_YAML))
    if not isinstance(content, dict):
        raise ValueError("it must hold lines of the form argument: value")
    return content


def parse_yaml(text: str | TextIO) -> Any:
    """Return what a text or a stream of YAML holds. Raises `ValueError` in one line if it is not valid."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # The constructors of values such as `!!int x` raise these.
    except (YAMLError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        problem = getattr(error, "problem", None) or one_line(error)
        raise ValueError(f"it is not valid YAML: {problem}") from error


def _read_text(path: str | os.PathLike[str], max_size: int) -> str:
    if os.path.exists(path) and not os.path.isfile(path):
        # Reading from a pipe may never end, and a recipe is read twice.
        raise ValueError("it is not a regular file, but a folder, a pipe or a device")
    with open(path, "rb") as file:
        content = file.read(max_size + 1)
    if len(content) > max_size:
        raise ValueError(f"it is larger than {max_size:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text: {one_line(error)}") from error


# Write


@contextmanager
def replacing_files(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Give a temporary directory in a folder, which is created if it is missing. At the end what was written into it is
    flushed to the disk, and each file atomically replaces its namesake in the folder; after an error none does. Raises
    `OSError` that names the folder if that fails.
    """
    folder = Path(folder)
    with _naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _temporary_directory(folder) as temporary:
            yield temporary
            follow_umask(temporary)
            _move(list(temporary.iterdir()), folder)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Give a `Path` to write a file to, which atomically replaces `path` at the end, unless there is an error. A pipe or
    another device is written to directly. Raises `OSError` that names the path if it cannot be written.
    """
    with _naming(path):
        if is_device(path):
            yield Path(path)
            return
        place = Path(os.path.realpath(path))
        # In the same folder, since a file cannot be renamed across filesystems.
        with _temporary_directory(place.parent) as temporary:
            yield temporary / place.name
            _move([temporary / place.name], place.parent)


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name a path in an `OSError`, whose own message may name a temporary file, or none where a disk is full."""
    try:
        yield
    except BrokenPipeError:  # whoever reads the output has ended, which is no error
        raise
    except OSError as error:
        if error.errno is None:  # a message that names it already
            raise
        raise OSError(f"{path} cannot be written: {error.strerror}") from error


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    with atomic_write(path) as file:
        file.write_text(text, encoding="utf-8")


def write_json(content: Any, path: str | os.PathLike[str]) -> None:
    write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", path)


def write_csv(rows: Iterable[Iterable[Any]], path: str | os.PathLike[str]) -> None:
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def is_device(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a pipe, a terminal or another device."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def follow_umask(folder: Path) -> None:
    """Give the files in a new folder the mode of the folder: safetensors lets only their owner read its files."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def flush_to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary directories of killed processes, which are no longer locked."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError), _locked(path):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _temporary_directory(folder: Path) -> Iterator[Path]:
    remove_leftovers(folder)
    temporary = folder / f"{TEMPORARY}{secrets.token_hex(4)}"
    unlocked = temporary.with_name(f".new{temporary.name}")  # which `remove_leftovers` in another process passes over
    unlocked.mkdir()  # unlike one of `tempfile`, it follows the umask
    with ExitStack() as stack:
        with suppress(OSError):  # some filesystems have no locks
            stack.enter_context(_locked(unlocked))
        unlocked.rename(temporary)
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        yield temporary


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder until this process ends at the latest. Raises `OSError` where it is locked or cannot be."""
    if fcntl is None:
        raise OSError("this system has no locks")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _move(paths: Iterable[Path], folder: Path) -> None:
    paths = list(paths)
    for path in paths:  # all of them first, so that a full disk replaces none
        for part in [*path.rglob("*"), path]:
            flush_to_disk(part)
    for path in paths:
        path.replace(folder / path.name)
    flush_to_disk(folder)
