"""The names of the files and checkpoint folders of a run."""

from __future__ import annotations

import os
from pathlib import Path

HISTORY_CSV, METRICS_JSON, RUN_JSON = "history.csv", "metrics.json", "run.json"
EVENTS = "events.jsonl"
STUDY_JSON = "study.json"  # in a folder of runs
CARD, CURVES, CURVES_SVG = "README.md", "curves.png", "curves.svg"
WEIGHTS, TRAINING_ARGS_JSON = "model.safetensors", "training_args.json"
LOCK, MARKER = ".lock", "preempted"  # empty files
_PREFIX = "checkpoint-"
# Patterns, since weights may be split over several files.
WEIGHT_FILES = (WEIGHTS, "model-*-of-*.safetensors", f"{WEIGHTS}.index.json")
MODEL_FILES = ("config.json", "preprocessor_config.json", "configuration_cifar_resnet.py", "modeling_cifar_resnet.py")
PUSHED_FILES = (*WEIGHT_FILES, *MODEL_FILES, CARD, CURVES, METRICS_JSON, RUN_JSON, TRAINING_ARGS_JSON)
# What training writes, with patterns of the contents that show that they are ours; the first one speaks for all.
RUN_FILES: dict[str, bytes | None] = {RUN_JSON: rb'\A{\n  "command": \['}
RUN_FILES |= {name: None for name in (*PUSHED_FILES, CURVES_SVG, HISTORY_CSV, f"{_PREFIX}[0-9]*") if name != RUN_JSON}
RUN_FILES[EVENTS] = rb'\A{"event": '
RUN_FILES |= dict.fromkeys((LOCK, MARKER), rb"\A\Z")


def holds_model_or_run(folder: Path) -> bool:
    """Whether a folder holds a run, or a model alone."""
    return any((folder / name).is_file() for name in ("config.json", RUN_JSON))


def folder_name(folder: str | os.PathLike[str]) -> str:
    """Return the name of a folder, also of `.` and `..`."""
    return Path(os.path.abspath(folder)).name


def find_run_record(folder: Path) -> Path | None:
    """Return the `run.json` in a folder or else beside it, for a checkpoint the other way round; None without one."""
    places = (folder, folder.parent) if step_of(folder) is None else (folder.parent, folder)
    return next((place / RUN_JSON for place in places if (place / RUN_JSON).is_file()), None)


def step_of(checkpoint: str | os.PathLike[str]) -> int | None:
    """N of a folder `checkpoint-N`, or None."""
    number = Path(checkpoint).name.removeprefix(_PREFIX)
    return int(number) if number.isdecimal() else None


def checkpoint_path(folder: str | os.PathLike[str], step: int) -> Path:
    return Path(folder, f"{_PREFIX}{step}")


def list_checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the folders `checkpoint-N` of a run in the order of N, complete or not."""
    steps = {path: step_of(path) for path in Path(folder).glob(f"{_PREFIX}*") if path.is_dir()}
    found = [(step, path) for path, step in steps.items() if step is not None]
    return [path for _, path in sorted(found)]
