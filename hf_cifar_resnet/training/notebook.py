"""Progress in a notebook. This module needs IPython, and is imported in notebooks alone."""

from typing import Any

from transformers.utils.notebook import NotebookProgressCallback

from .callbacks import EpochLineCallback

HEADINGS = {"loss": "train loss", "train": "train accuracy"}


class NotebookCallback(EpochLineCallback, NotebookProgressCallback):
    """
    transformers' progress bar for notebooks, with the figures of [`EpochLineCallback`] as a table under it. An
    evaluation outside of a training shows its bar alone, since its scores are returned.
    """

    def __init__(self):
        NotebookProgressCallback.__init__(self)
        EpochLineCallback.__init__(self)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        NotebookProgressCallback.on_train_begin(self, *args, **kwargs)
        EpochLineCallback.on_train_begin(self, *args, **kwargs)
        if self.training_tracker is not None:
            self.training_tracker.inner_table = None  # its columns are those of the first row

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        EpochLineCallback.on_evaluate(self, *args, **kwargs)
        if self.training_tracker is not None:
            self.training_tracker.remove_child()
        self.on_predict(*args, **kwargs)  # closes the bar

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        NotebookProgressCallback.on_train_end(self, *args, **kwargs)
        EpochLineCallback.on_train_end(self, *args, **kwargs)

    def report(self, epoch: str, trained: dict[str, str], evaluated: dict[str, str]) -> None:
        if self.training_tracker is not None:
            figures = {"epoch": epoch, **trained, **evaluated}
            figures.pop("LR", None)  # a column has it
            row = {HEADINGS.get(name, name): text.strip() for name, text in figures.items()}
            self.training_tracker.write_line(row)
