"""The temperature of a model (Guo et al. 2017), which `evaluate --calibrate` saves in its config.json."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..documents import read_json, write_json
from ..runs.files import WEIGHTS
from .save import verify_checkpoint, write_manifest


def save_temperature(folder: Path, temperature: float) -> None:
    """
    Save a `calibration_temperature` in the config.json of a run or checkpoint; a checkpoint that was verified before is
    so again. Raises `OSError` or `ValueError` if the file cannot be read or written.
    """
    try:
        verify_checkpoint(folder)
        verified = True
    except ValueError:
        verified = False
    config = read_json(folder / "config.json")
    write_json({**config, "calibration_temperature": temperature}, folder / "config.json")
    if verified:
        write_manifest(folder)


@contextmanager
def keeping_temperature(folder: Path) -> Iterator[None]:
    """
    Keep the temperature of the model in a folder, if the model that is saved there within this context has the same
    weights, as that of a finished run which is resumed has.
    """
    path = folder / "config.json"
    temperature = read_json(path).get("calibration_temperature") if path.is_file() else None
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
