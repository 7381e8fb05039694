"""What a report needs of a finished run: it is kept in `study.json`, so that the report can do without the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import schedules
from ..evaluation.scores import Scores
from ..runs.arguments import RunArguments, comparable
from ..runs.fields import Fields
from ..runs.folder import RunFolder
from ..runs.history import History
from ..runs.metrics import RunMetrics, read_scores
from ..runs.record import RunRecord
from ..training.arguments import CifarTrainingArguments
from ..training.record import RUN_ARGUMENTS

# The columns of a history that tables and pictures are made of.
CURVES = ("epoch", "train_seconds", "eval_top1", "eval_loss", "train_accuracy", "train_loss", "learning_rate")
DIGITS = 7  # of the numbers in curves
# Arguments that may differ between the runs of one variant, or that others follow from.
NOT_COMPARED = ("seed", "scaled_learning_rate", "lr_scheduler_type", "model_name_or_path")


@dataclass(frozen=True)
class RunSetting:
    """
    What a run was trained on and with.

    Attributes:
        dataset: its name.
        scored_images: identifies the images that the best epoch is chosen on.
        model: its description.
        train_images, test_images: their numbers.
        learning_rate: the peak.
        warmup: in words.
        precision: such as `bf16`; None in files of former versions.
        weight_decay, augmentation: None in files of former versions.
        keeps_best: whether the weights of the best epoch were to be kept, not those of the last one.
    """

    dataset: str
    scored_images: str | None
    model: str
    train_images: int
    test_images: int
    optimizer: str
    learning_rate: float
    global_batch_size: int
    warmup: str
    hardware: str
    versions: Mapping[str, str] = field(default_factory=dict)
    precision: str | None = None
    keeps_best: bool = True
    weight_decay: float | None = None
    augmentation: str | None = None

    @classmethod
    def from_record(cls, record: RunRecord) -> RunSetting:
        arguments = record.arguments
        return cls(
            dataset=record.dataset.name,
            scored_images=record.dataset.scored_images,
            model=record.model.description,
            train_images=record.dataset.train,
            test_images=record.dataset.test,
            optimizer=str(arguments.get("optim")),
            learning_rate=float(arguments.get("scaled_learning_rate") or arguments.get("learning_rate") or 0),
            global_batch_size=int(arguments.get("global_batch_size") or 0),
            warmup=_describe_warmup(record),
            hardware=record.hardware,
            versions=record.versions,
            precision=record.precision,
            keeps_best=bool(arguments.get("load_best_model_at_end", True)),
            weight_decay=arguments.get("weight_decay"),
            augmentation=record.data_arguments.get("augmentation"),
        )

    @classmethod
    def from_fields(cls, fields: Fields) -> RunSetting:
        return cls(
            dataset=fields.text("dataset"),
            scored_images=fields.optional_text("scored_images"),
            model=fields.text("model"),
            train_images=fields.integer("train_images"),
            test_images=fields.integer("test_images"),
            optimizer=fields.text("optimizer"),
            learning_rate=fields.number("learning_rate"),
            global_batch_size=fields.integer("global_batch_size"),
            warmup=fields.text("warmup"),
            hardware=fields.text("hardware"),
            versions={name: str(version) for name, version in fields.mapping("versions").items()},
            precision=fields.optional_text("precision"),
            keeps_best=fields.boolean("keeps_best") if "keeps_best" in fields else True,
            weight_decay=fields.optional_number("weight_decay"),
            augmentation=fields.optional_text("augmentation"),
        )


def _describe_warmup(record: RunRecord) -> str:
    spec = schedules.get(record.schedule)
    if spec.own_warmup:
        return "its own"
    warmup = spec.resolve_warmup(float(record.arguments.get("warmup_steps") or 0)) if spec.takes_warmup else 0.0
    if not warmup:
        return "none"
    return f"{warmup:.3g} steps" if warmup >= 1 else f"{100 * warmup:.3g}% of the steps"


@dataclass(frozen=True)
class RunResult:
    """
    The result of a finished run. Accuracies are 0 to 1.

    Attributes:
        selected_on: the split on which the best epoch was chosen, or `none`.
        validation, test: the scores of the saved model.
        best_epoch: the epoch whose model is saved.
        epochs: that were trained.
        train_seconds: of training alone.
        train_accuracy: the mean of the last epoch, with augmentation.
        curves: [`CURVES`], each with a number or None for every row of the history.
    """

    selected_on: str
    validation: Scores | None
    test: Scores
    best_epoch: float | None
    epochs: float | None
    train_seconds: float | None
    train_accuracy: float | None
    setting: RunSetting
    curves: Mapping[str, Sequence[float | None]]

    @property
    def selection_split(self) -> str:
        """The split on which the run selected its epoch; test for one that evaluated nothing before."""
        return "validation" if self.selected_on == "validation" else "test"

    @property
    def selection_top1(self) -> float | None:
        """The top-1 accuracy on that split, or None for a run that was not evaluated on it."""
        scores = self.validation if self.selection_split == "validation" else self.test
        return scores and scores.top1

    @property
    def is_chosen(self) -> bool:
        """Whether the epoch of the saved model was chosen by evaluations."""
        return self.setting.keeps_best and self.selected_on != "none" and self.last_top1 is not None

    @property
    def last_top1(self) -> float | None:
        """The top-1 accuracy of the last evaluation while training, whichever epoch was chosen."""
        return self._last("eval_top1")

    @property
    def gap(self) -> float | None:
        """Train accuracy less evaluated accuracy in the last epoch, if both are known."""
        [*_, evaluated] = self.curves.get("eval_top1") or [None]
        if self.train_accuracy is None or evaluated is None:
            return None
        return self.train_accuracy - evaluated

    def rows(self) -> list[dict[str, float]]:
        """Return the rows of the history, without values that there are not."""
        columns = [name for name in CURVES if name in self.curves]
        return [
            {name: value for name, value in zip(columns, values, strict=True) if value is not None}
            for values in zip(*(self.curves[name] for name in columns), strict=True)
        ]

    def first_reached(self, target: float) -> dict[str, float]:
        """Return the first row in which the evaluated top-1 accuracy reached a target, or an empty one."""
        return next((row for row in self.rows() if row.get("eval_top1", -1.0) >= target), {})

    def _last(self, column: str) -> float | None:
        known = [value for value in self.curves.get(column, ()) if value is not None]
        return known[-1] if known else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "selected_on": self.selected_on,
            "validation": self.validation and self.validation.to_dict(),
            "test": self.test.to_dict(),
            "best_epoch": self.best_epoch,
            "epochs": self.epochs,
            "train_seconds": self.train_seconds,
            "train_accuracy": self.train_accuracy,
            "setting": asdict(self.setting),
            "curves": {name: list(values) for name, values in self.curves.items()},
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> RunResult:
        curves = fields.section("curves")
        return cls(
            selected_on=fields.text("selected_on"),
            validation=read_scores(fields, "validation") if "validation" in fields else None,
            test=read_scores(fields, "test"),
            best_epoch=fields.optional_number("best_epoch"),
            epochs=fields.optional_number("epochs"),
            train_seconds=fields.optional_number("train_seconds"),
            train_accuracy=fields.optional_number("train_accuracy"),
            setting=RunSetting.from_fields(fields.section("setting")),
            curves={name: _numbers(curves, name) for name in curves.content},
        )

    @classmethod
    def from_run(cls, record: RunRecord, metrics: RunMetrics, history: History) -> RunResult:
        """Return the result of a run. Raises `ValueError` if it has no test scores."""
        if metrics.test is None:
            raise ValueError("the run has no test scores")
        rows = history.to_dicts()
        known = [name for name in CURVES if any(name in row for row in rows)]
        return cls(
            selected_on=metrics.selected_on,
            validation=metrics.validation,
            test=metrics.test,
            best_epoch=metrics.best_epoch,
            epochs=metrics.epochs,
            train_seconds=metrics.timing.train_seconds,
            train_accuracy=metrics.train.accuracy,
            setting=RunSetting.from_record(record),
            curves={name: [_round(row.get(name)) for row in rows] for name in known},
        )

    @classmethod
    def read(cls, folder: RunFolder) -> RunResult:
        """Read the files of a finished run. Raises `OSError`, or `ValueError` for a damaged one."""
        try:
            return cls.from_run(folder.read_record(), folder.read_metrics(), folder.read_history())
        except ValueError as error:
            raise ValueError(str(error) if str(folder.path) in str(error) else f"{folder.path}: {error}") from error


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def _numbers(fields: Fields, name: str) -> list[float | None]:
    values = fields.content[name]
    if not isinstance(values, list) or not all(
        value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in values
    ):
        raise ValueError(f"{fields.file} is damaged: {fields.place}{name} must be a list of numbers")
    return values


def comparable_arguments(record: RunRecord) -> dict[str, Any]:
    """Return all resolved arguments of a run that set its variant apart, by name."""
    everything = {**record.model_arguments, **record.data_arguments, **record.arguments, "precision": record.precision}
    # Former versions recorded fewer, and those that were not given had their defaults.
    given = record.given or RunArguments()
    defaults = {each.name: each.default for each in dataclasses.fields(CifarTrainingArguments)}
    for name in RUN_ARGUMENTS:
        everything.setdefault(name, given.get(name, defaults.get(name)))
    return {name: value for name, value in comparable(everything).items() if name not in NOT_COMPARED}
