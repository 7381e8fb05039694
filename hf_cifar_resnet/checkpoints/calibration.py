"""The temperature of a model (Guo et al. 2017), which `evaluate --calibrate` saves in its config.json."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..documents import read_json, write_json
from ..runs.files import WEIGHTS
from .save import is_complete, write_manifest

KEY = "calibration_temperature"


def save_temperature(folder: Path, temperature: float) -> None:
    """Save a temperature in the config.json of a folder. A complete checkpoint stays complete."""
    path = folder / "config.json"
    complete = is_complete(folder)
    write_json(read_json(path) | {KEY: temperature}, path)
    if complete:
        write_manifest(folder)


@contextmanager
def keeping_temperature(folder: Path) -> Iterator[None]:
    """
    Keep the temperature of the model in a folder, if the model that is saved there within this context has the same
    weights, as that of a finished run which is resumed has.
    """
    path = folder / "config.json"
    temperature = read_json(path).get(KEY) if path.is_file() else None
    before = _digest(folder)
    yield
    if temperature is not None and before is not None and _digest(folder) == before:
        save_temperature(folder, temperature)


def _digest(folder: Path) -> str | None:
    path = folder / WEIGHTS
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
