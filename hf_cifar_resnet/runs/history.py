"""The history of a run (`history.csv`): a row for each step at which something was logged."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..documents import write_csv
from ..errors import explained

# The entries of a training log, and the columns that they fill.
_TRAINING = {
    "loss": "train_loss", "accuracy": "train_accuracy", "learning_rate": "learning_rate",
    "images_per_second": "images_per_second", "data_wait": "data_wait", "seconds": "train_seconds",
}  # fmt: skip
# The scores of an evaluation, in a log and as columns: of the only evaluation set, or of one of several by its name.
EVALUATION = re.compile(r"eval_(?:(?P<dataset>.+)_)?(?P<score>loss|top1|top5|superclass)")


@dataclass(frozen=True)
class HistoryRow:
    """
    What was logged at one step. Accuracies and shares are 0 to 1; None is not logged.

    Attributes:
        step: the number of optimizer steps so far.
        epoch: the number of epochs so far, whole at the end of an epoch.
        train_loss, train_accuracy: means since the log before, with augmentation and mixed labels as in training.
        learning_rate: of the last step.
        images_per_second: since the log before.
        data_wait: the share of the time since the log before that was spent waiting for data.
        train_seconds: of training alone since the start of the run.
        evaluation: the scores by column: `eval_loss`, `eval_top1`, ...; or `eval_NAME_loss` of one set of several.
    """

    step: int
    epoch: float
    train_loss: float | None = None
    train_accuracy: float | None = None
    learning_rate: float | None = None
    images_per_second: float | None = None
    data_wait: float | None = None
    train_seconds: float | None = None
    evaluation: Mapping[str, float] = field(default_factory=dict)

    def get(self, column: str) -> float | None:
        """Return the value in a column, or None if there is none."""
        return self.to_dict().get(column)

    def to_dict(self) -> dict[str, float]:
        """Return the values that there are, by column."""
        values = {name: getattr(self, name) for name in _COLUMNS}
        return {name: value for name, value in values.items() if value is not None} | dict(self.evaluation)

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> HistoryRow:
        """Return the row with these values by column, without columns that no history has."""
        own = {name: values[name] for name in _COLUMNS if name in values and name not in ("step", "epoch")}
        evaluation = {name: value for name, value in values.items() if EVALUATION.fullmatch(name)}
        return cls(step=int(values["step"]), epoch=values["epoch"], **own, evaluation=evaluation)


_COLUMNS = [each.name for each in fields(HistoryRow) if each.name != "evaluation"]


@dataclass(frozen=True)
class History:
    """The rows of a run, by step."""

    rows: Sequence[HistoryRow]

    def __iter__(self) -> Iterator[HistoryRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def last(self) -> HistoryRow | None:
        return self.rows[-1] if self.rows else None

    def points(self, column: str) -> list[tuple[float, float]]:
        """Return pairs of an epoch and the value in a column, for the rows that have one."""
        values = [(row.epoch, row.get(column)) for row in self.rows]
        return [(epoch, value) for epoch, value in values if value is not None]

    def to_dicts(self) -> list[dict[str, float]]:
        """Return the values of each row by column."""
        return [row.to_dict() for row in self.rows]

    def at_step(self, step: int) -> HistoryRow | None:
        return next((row for row in self.rows if row.step == step), None)

    @classmethod
    def from_log(cls, log_history: Sequence[Mapping[str, Any]]) -> History:
        """Return the history in a Trainer's `state.log_history`."""
        rows: dict[int, dict[str, float]] = {}
        for entry in log_history:
            # The last entry of a training has other values, among them a `train_loss` of its own.
            training = entry if "loss" in entry else {}
            columns = {column: training[name] for name, column in _TRAINING.items() if name in training}
            columns |= {name: value for name, value in entry.items() if EVALUATION.fullmatch(name)}
            if columns:
                rows.setdefault(entry["step"], {"step": entry["step"], "epoch": entry["epoch"]}).update(columns)
        return cls([HistoryRow.from_dict(rows[step]) for step in sorted(rows)])

    @classmethod
    def read(cls, path: str | Path) -> History:
        """Read a `history.csv`. Raises `OSError`, or `ValueError`, which names file and column, if it is damaged."""
        with explained(f"{path} is damaged", ValueError), open(path, newline="", encoding="utf-8") as file:
            text = file.read()
        if not text.endswith("\n"):
            raise ValueError(f"{path} is damaged: {'it ends within a line' if text else 'it is empty'}")
        with explained(f"{path} is damaged", csv.Error):
            header, *lines = csv.reader(text.splitlines())
        # Former versions wrote an empty line for a history without rows.
        if header and not {"step", "epoch"} <= set(header):
            raise ValueError(f"{path} is damaged: its first line does not name the columns step and epoch")
        return cls([_parse_row(path, number, header, line) for number, line in enumerate(lines, 2)])

    def write(self, path: str | Path) -> None:
        """Write it as CSV, atomically, without columns that no row has. Raises `OSError` if that fails."""
        rows = self.to_dicts()
        used = dict.fromkeys(name for row in rows for name in row)
        columns = [name for name in _COLUMNS if name in used or name in ("step", "epoch")]
        columns += [name for name in used if name not in columns]
        write_csv([columns, *([row.get(name) for name in columns] for row in rows)], path)


def _parse_row(path: str | Path, number: int, header: Sequence[str], line: Sequence[str]) -> HistoryRow:
    if len(line) != len(header):
        raise ValueError(f"{path} is damaged: line {number} has {len(line)} cells, and the first line {len(header)}")
    cells = {column: cell for column, cell in zip(header, line, strict=True) if cell}
    for column in ("step", "epoch"):
        if column not in cells:
            raise ValueError(f"{path} is damaged: line {number} has no {column}")
    return HistoryRow.from_dict({column: _parse_cell(path, number, column, cell) for column, cell in cells.items()})


def _parse_cell(path: str | Path, number: int, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{path} is damaged: {column} in line {number} must be a number, got {cell!r}") from None
    # A training that diverges has losses that are not finite.
    if not math.isfinite(value) and not column.endswith("loss"):
        raise ValueError(f"{path} is damaged: {column} in line {number} must be a finite number, got {cell!r}")
    return value
