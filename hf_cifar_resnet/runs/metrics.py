"""The metrics of a run (`metrics.json`): how well and how fast it trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..documents import write_json
from ..evaluation.analysis import ConfusedPair
from ..evaluation.scores import Scores
from .fields import Fields

Selection = Literal["validation", "test", "none"]


@dataclass(frozen=True)
class TrainScores:
    """
    Mean training loss and accuracy, 0 to 1, over the last epoch, with augmentation and mixed labels as in training.
    None if they are not known.
    """

    loss: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Timing:
    """The seconds of training alone, evaluations apart, and its images/s throughout. None if nothing was logged."""

    train_seconds: float | None = None
    images_per_second: float | None = None


@dataclass(frozen=True)
class RunMetrics:
    """
    The metrics of a run.

    Attributes:
        selected_on: the split on which the best epoch was chosen, or `none`.
        metric_for_best_model: the metric by which it was chosen.
        best_epoch: the epoch whose model is saved. The last one where none was chosen.
        epochs, steps: that were trained.
        evaluations: at how many steps the model was evaluated. None in files of former versions.
        train: of the last epoch.
        validation: of the saved model; None without a validation split, or if it was not evaluated.
        test: of the saved model; None as long as training has not finished.
        most_confused: pairs of classes that the saved model mistakes for each other most often, on the test split.
    """

    selected_on: Selection
    metric_for_best_model: str | None
    best_epoch: float | None
    epochs: float | None
    steps: int
    evaluations: int | None
    train: TrainScores
    validation: Scores | None
    test: Scores | None
    most_confused: Sequence[ConfusedPair] | None
    timing: Timing

    def scores(self, split: str) -> Scores | None:
        """Return the scores on `validation` or on `test`."""
        return {"validation": self.validation, "test": self.test}[split]

    @classmethod
    def read(cls, path: str | Path) -> RunMetrics:
        """Read a `metrics.json`. Raises `OSError`, or `ValueError`, which names file and field, if it is damaged."""
        return cls.from_fields(Fields.read(path))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], file: str | Path = "the run's metrics") -> RunMetrics:
        """Return the metrics of a `metrics.json`. Raises `ValueError` if something is missing or wrong."""
        return cls.from_fields(Fields(content, file))

    @classmethod
    def from_fields(cls, fields: Fields) -> RunMetrics:
        train, timing = fields.section("train"), fields.section("timing")
        return cls(
            selected_on=_selection(fields),
            metric_for_best_model=fields.optional_text("metric_for_best_model"),
            best_epoch=fields.optional_number("best_epoch"),
            epochs=fields.optional_number("epochs"),
            steps=fields.integer("steps"),
            evaluations=fields.integer("evaluations") if "evaluations" in fields else None,
            train=TrainScores(
                loss=train.optional_number("loss", finite=False), accuracy=train.optional_number("accuracy")
            ),
            validation=read_scores(fields, "validation") if "validation" in fields else None,
            test=read_scores(fields, "test") if "test" in fields else None,
            most_confused=_confused_pairs(fields) if "most_confused" in fields else None,
            timing=Timing(timing.optional_number("train_seconds"), timing.optional_number("images_per_second")),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `metrics.json`, of plain values."""
        return {
            "selected_on": self.selected_on,
            "metric_for_best_model": self.metric_for_best_model,
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "steps": self.steps,
            **({} if self.evaluations is None else {"evaluations": self.evaluations}),
            "train": asdict(self.train),
            "validation": None if self.validation is None else self.validation.to_dict(),
            "test": None if self.test is None else self.test.to_dict(),
            "most_confused": None if self.most_confused is None else [dict(pair) for pair in self.most_confused],
            "timing": asdict(self.timing),
        }

    def write(self, path: str | Path) -> None:
        """Write it as JSON, atomically. Raises `OSError` if the file cannot be written."""
        write_json(self.to_dict(), path)


def _selection(fields: Fields) -> Selection:
    value = fields.text("selected_on")
    if value not in ("validation", "test", "none"):
        raise ValueError(f"{fields.file} is damaged: selected_on must be validation, test or none, got {value!r}")
    return value


def read_scores(fields: Fields, split: str) -> Scores:
    """Return the scores of a split. Raises `ValueError` where they are damaged."""
    section = fields.section(split)
    return Scores(
        # A model whose logits overflow has no finite loss.
        loss=section.number("loss", finite=False),
        top1=section.number("top1"),
        top5=section.optional_number("top5"),
        superclass=section.optional_number("superclass"),
    )


def _confused_pairs(fields: Fields) -> list[ConfusedPair]:
    return [
        {"classes": pair.texts("classes"), "count": pair.integer("count"), "share": pair.number("share")}
        for pair in fields.sections("most_confused")
    ]
