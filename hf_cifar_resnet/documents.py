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
from typing import Any

from .errors import explained, one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LARGEST_JSON, LARGEST_YAML = 2**24, 2**20  # bytes
# How the name of a temporary directory begins, in which files are written before they are renamed.
TEMPORARY = ".hf-cifar-resnet-"

# Read


def read_json(path, largest=LARGEST_JSON):
    """Return the object in a JSON file as a dict. Raises `OSError`, or `ValueError` in one line that names no file."""
    return _read_mapping(path, largest, json.loads, "JSON", "a JSON object: {...}")


def read_yaml(path):
    """
    Return the mapping in a YAML 1.2 file as a dict, in which 1e-3 is a number and `no` is a string, unlike in the YAML
    1.1 of PyYAML. Raises as [`read_json`] does, also for a repeated key.
    """
    return _read_mapping(path, LARGEST_YAML, parse_yaml, "YAML", "lines of the form argument: value")


def _read_mapping(path, largest, parse, language, form):
    if os.path.exists(path) and not os.path.isfile(path):
        # Reading from a pipe may never end, and a recipe is read twice.
        raise ValueError("it is not a regular file, but a folder, a pipe or a device")
    with open(path, "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"it is larger than {largest:,} bytes")
    try:
        content = parse(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ImportError:  # says itself what is missing
        raise
    except Exception as error:  # constructors of YAML raise more than YAMLError
        problem = getattr(error, "problem", None) or one_line(error)
        raise ValueError(f"it is not valid {language}: {problem}") from error
    if not isinstance(content, dict):
        raise ValueError(f"it must hold {form}")
    return content


def parse_yaml(text):
    """Return what a text or a stream of YAML holds."""
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


# Write


@contextmanager
def replacing_files(folder: str | os.PathLike) -> Iterator[Path]:
    """
    Give a temporary directory in a folder, which is created if it is missing. At the end what was written into it is
    flushed to the disk, and each file atomically replaces its namesake in the folder; after an error none does. Raises
    [`UserError`] if that fails.
    """
    folder = Path(folder)
    with explained(f"{folder} cannot be written", OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with _temporary_directory(folder) as temporary:
            yield temporary
            follow_umask(temporary)
            _move(list(temporary.iterdir()), folder)


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """
    Give a `Path` to write a file to, which atomically replaces `path` at the end, unless there is an error. A pipe or
    another device is written to directly. Raises [`UserError`] if it cannot be written.
    """
    with explained(f"{path} cannot be written", OSError):
        if is_device(path):
            yield Path(path)
            return
        place = Path(os.path.realpath(path))
        # In the same folder, since a file cannot be renamed across filesystems.
        with _temporary_directory(place.parent) as temporary:
            yield temporary / place.name
            _move([temporary / place.name], place.parent)


def write_text(text: str, path: str | os.PathLike) -> None:
    with atomic_write(path) as file:
        file.write_text(text, encoding="utf-8")


def write_json(content: Any, path: str | os.PathLike) -> None:
    write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", path)


def write_csv(rows: Iterable[Iterable], path: str | os.PathLike) -> None:
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def is_device(path: str | os.PathLike) -> bool:
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
def _temporary_directory(folder):
    remove_leftovers(folder)
    temporary = folder / f"{TEMPORARY}{secrets.token_hex(4)}"
    temporary.mkdir()  # unlike one of `tempfile`, it follows the umask
    with ExitStack() as stack:
        with suppress(OSError):  # some filesystems have no locks
            stack.enter_context(_locked(temporary))
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        yield temporary


@contextmanager
def _locked(folder):
    """Lock a folder until this process ends at the latest. Raises `OSError` where it is locked or cannot be."""
    if fcntl is None:
        raise OSError("this system has no locks")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _move(paths, folder):
    for path in paths:
        flush_to_disk(path)
        path.replace(folder / path.name)
    flush_to_disk(folder)
