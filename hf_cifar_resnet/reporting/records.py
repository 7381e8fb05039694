"""What a run records: one row an evaluation, and the figures of the model it saved."""

import csv
import json
import re
from pathlib import PurePosixPath, PureWindowsPath

HISTORY_CSV, METRICS_JSON, RUN_JSON = "history.csv", "metrics.json", "run.json"
STUDY_JSON = "study.json"  # of a folder of runs
_TRAINING = {
    "loss": "train_loss",
    "train_accuracy": "train_accuracy",
    "learning_rate": "learning_rate",
    "images_per_second": "images_per_second",
    "data_wait": "data_wait",
    "train_seconds": "train_seconds",
}
ACCURACIES = {"top1": "top-1", "top5": "top-5", "superclass": "superclass"}  # and how a reader calls them
SCORES = ("loss", *ACCURACIES)


def history(log_history):
    """
    One row for each step at which the Trainer logged training or evaluation, in order.

    Args:
        log_history (list of dicts): the Trainer's `state.log_history`.

    Returns:
        list of dicts with step, epoch, train_loss, train_accuracy, learning_rate, images_per_second, data_wait (share
        of the time), train_seconds, eval_loss, eval_top1, ...; accuracies are 0 to 1.
    """
    rows = {}
    for entry in log_history:
        columns = {column: entry[name] for name, column in _TRAINING.items() if name in entry and "loss" in entry}
        columns |= {f"eval_{name}": entry[f"eval_{name}"] for name in SCORES if f"eval_{name}" in entry}
        if columns:
            row = rows.setdefault(entry["step"], {"step": entry["step"], "epoch": entry["epoch"]})
            row |= columns
    return [rows[step] for step in sorted(rows)]


def write_history(rows, path):
    """Writes the rows of [`history`] as CSV."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_history(path):
    """The rows that [`write_history`] wrote, as numbers; empty cells are left out."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]


def scores(metrics, prefix):
    """The figures of [`Scorer`] among a Trainer's metrics, without their prefix."""
    return {name: metrics[f"{prefix}_{name}"] for name in SCORES if f"{prefix}_{name}" in metrics}


_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


def public(value):
    """
    What may be told on the Hub: without tokens, and of places on this machine only their last part.

    Args:
        value: a text, which may be a path or `--flag=path`, or lists and dicts of such; all else stays as it is.
    """
    if isinstance(value, dict):
        return {key: public(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(part) for part in value]
    if not isinstance(value, str):
        return value
    flag, equals, rest = value.partition("=") if value.startswith("--") else ("", "", value)
    if rest.startswith(("~", "..")) or PurePosixPath(rest).is_absolute() or PureWindowsPath(rest).is_absolute():
        rest = PureWindowsPath(rest).name
    return _SECRET.sub("<HF_TOKEN>", flag + equals + rest)


def without_token(argv):
    """A command line whose `--hub_token` is not told."""
    hidden = ["--hub_token=<HUB_TOKEN>" if word.startswith("--hub_token=") else word for word in argv]
    return [
        "<HUB_TOKEN>" if before == "--hub_token" else word for before, word in zip(["", *hidden], hidden, strict=False)
    ]


def write_json(content, path):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)
