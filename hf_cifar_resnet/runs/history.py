"""The history of a run (history.csv): one row for each logged step."""

import csv

from ..documents import write_csv
from .scores import SCORES

# The entries of a training log, and the columns of a history that they fill.
_TRAINING = {
    "loss": "train_loss", "accuracy": "train_accuracy", "learning_rate": "learning_rate",
    "images_per_second": "images_per_second", "data_wait": "data_wait", "seconds": "train_seconds",
}  # fmt: skip


def history_rows(log_history):
    """
    Make one row for each step in the Trainer's `state.log_history`: step, epoch, train_loss, ..., eval_loss, eval_top1,
    ...; accuracies and data_wait (share of the time) are 0 to 1.
    """
    rows = {}
    for entry in log_history:
        training = entry if "loss" in entry else {}
        columns = {column: training[name] for name, column in _TRAINING.items() if name in training}
        columns |= {f"eval_{name}": entry[f"eval_{name}"] for name in SCORES if f"eval_{name}" in entry}
        if columns:
            rows.setdefault(entry["step"], {"step": entry["step"], "epoch": entry["epoch"]}).update(columns)
    return [rows[step] for step in sorted(rows)]


def write_history(rows, path):
    """Write the rows of [`history_rows`] as CSV."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv([columns, *([row.get(name) for name in columns] for row in rows)], path)


def read_history(path):
    """Read the rows that [`write_history`] wrote, as numbers, without empty cells."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
