"""The metrics of a run (metrics.json)."""

from .files import step_of
from .history import history_rows
from .scores import select_scores


def make_metrics(state, args, eval_split, test=None, most_confused=None):
    """
    Make the metrics of a run so far (`metrics.json`) from the Trainer's state. The best epoch was chosen on
    `eval_split`, unless it is "none"; `test` and `most_confused` are of the saved model on the test split, once it has
    been scored.
    """
    # Nothing may have been logged yet.
    rows = history_rows(state.log_history) or [{"step": state.global_step, "epoch": state.epoch}]
    last = rows[-1]
    best = state.best_model_checkpoint if args.load_best_model_at_end else None
    kept = step_of(best) if best else last["step"]
    saved = next((row for row in rows if row["step"] == kept), last)
    return {
        "selected_on": eval_split,
        "metric_for_best_model": args.metric_for_best_model,
        "best_epoch": saved["epoch"],
        "epochs": state.epoch,
        "steps": state.global_step,
        "train": {"loss": last.get("train_loss"), "accuracy": last.get("train_accuracy")},
        "validation": select_scores(saved, "eval") if eval_split == "validation" else None,
        "test": test,
        "most_confused": most_confused,
        "timing": _timing(rows),
    }


def _timing(rows):
    """Return the seconds of training of a history, and its images/s throughout; None where nothing was logged."""
    seconds = images = 0.0
    for row in rows:
        if "train_seconds" in row:
            images += row["images_per_second"] * (row["train_seconds"] - seconds)
            seconds = row["train_seconds"]
    return {"train_seconds": seconds or None, "images_per_second": images / seconds if seconds else None}
