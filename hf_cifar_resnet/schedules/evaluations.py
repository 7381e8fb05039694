"""Schedules that follow evaluations: a constant one, after an optional warmup, that a rule scales."""

import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from itertools import islice
from typing import Any, ClassVar

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import TrainingArguments
from transformers.optimization import GreedyLR

from .callback import ScheduleCallback
from .scheduler import Schedule
from .spec import BOOLEAN, DEFAULT_WARMUP, NUMBER, ScheduleSpec
from .transformers_schedules import make_constant

MAX_EVALUATIONS = 1000  # that are tried out before a run
LIMITS = ("min_lr", "max_lr")  # arguments that are learning rates


class EvaluationRule(ScheduleCallback):
    """
    A rule that scales the learning rate by `metric_for_best_model`. Evaluations during a warmup do not count.

    Its arguments are those of `RULE`, a scheduler of torch or transformers, with some `DEFAULTS` of ours: numbers that
    are not negative, and a `factor` between 0 and 1.
    """

    RULE: ClassVar[type[ReduceLROnPlateau] | type[GreedyLR]]
    DEFAULTS: ClassVar[dict[str, float]]

    def __init__(self, **settings: Any):
        self.check_arguments(settings)
        self.settings: dict[str, Any] = self.DEFAULTS | settings

    @classmethod
    def check_arguments(cls, arguments: Mapping[str, Any]) -> None:
        """Raise `ValueError` for values that the rule cannot use."""
        settings = cls.DEFAULTS | dict(arguments)
        for name, value in settings.items():
            if not value >= 0:  # NaN neither
                raise ValueError(f"{name} must not be negative, got {value}")
        if settings.get("window_size", 1) < 1:
            raise ValueError(f"window_size must be at least 1, got {settings['window_size']}")
        if not 0 < settings["factor"] < 1:
            raise ValueError(f"factor must be above 0 and below 1, got {settings['factor']}")

    def after_evaluation(self, schedule: Schedule, metrics: dict[str, float], args: TrainingArguments) -> None:
        name = f"eval_{(args.metric_for_best_model or 'loss').removeprefix('eval_')}"
        if name in metrics and schedule.last_epoch >= schedule.warmup_steps:
            self.apply(schedule, metrics[name], bool(args.greater_is_better))

    def check_peak(self, peak: float) -> None:
        """Raise `ValueError` where the limits of the learning rate do not suit its peak."""
        if not self.settings.get("min_lr", 0.0) <= peak <= (self.settings.get("max_lr") or math.inf):
            limits = " and ".join(f"{name} {self.settings[name]:g}" for name in LIMITS if self.settings.get(name))
            raise ValueError(f"the peak learning rate {peak:g} is not within {limits}")

    def apply(self, schedule: Schedule, value: float, greater_is_better: bool) -> None:
        """Add an evaluation to the memory of a [`Schedule`], and rescale it if necessary."""
        # The learning rate of this optimizer is the scale of the schedule, which is 1 in the beginning.
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        settings = self.settings.copy()
        for name in settings.keys() & {*LIMITS, "eps"}:
            settings[name] /= schedule.base_lrs[0]
        if settings.get("max_lr") == 0:
            settings["max_lr"] = 10
        rule = self.RULE(optimizer, mode="max" if greater_is_better else "min", **settings)
        fresh = deepcopy(rule.state_dict())
        rule.load_state_dict(schedule.memory)
        optimizer.param_groups[0]["lr"] = schedule.scale
        rule.step(value)
        # The settings, which do not change, are those of the resumed run.
        schedule.memory = {name: value for name, value in rule.state_dict().items() if value != fresh[name]}
        schedule.rescale(optimizer.param_groups[0]["lr"])

    def find_misfit(
        self, schedule: Schedule, evaluations: Iterable[int], early_stopping_patience: int | None
    ) -> str | None:
        """
        Return a sentence if the rule cannot change the learning rate before the run ends, or None. `evaluations` are
        the steps after which the run is evaluated.
        """
        counted = list(islice((step for step in evaluations if step >= schedule.warmup_steps), MAX_EVALUATIONS + 1))
        if len(counted) > MAX_EVALUATIONS:
            return None
        for improvement in (0.0, 1.0):  # nothing improves, all improve
            schedule.memory, schedule.scale = {}, 1.0
            for number in range(len(counted)):
                self.apply(schedule, -improvement * number, greater_is_better=False)
                if schedule.scale != 1:
                    return None
        evaluations_counted = "1 evaluation" if len(counted) == 1 else f"{len(counted)} evaluations"
        return f"the LR cannot change in the {evaluations_counted} between its warmup and its last step"


class PlateauCallback(EvaluationRule):
    """
    torch's `ReduceLROnPlateau`, with its arguments: cut after more than `patience` evaluations in a row without an
    improvement by the relative `threshold`.
    """

    RULE: ClassVar[type[ReduceLROnPlateau] | type[GreedyLR]] = ReduceLROnPlateau
    DEFAULTS: ClassVar[dict[str, float]] = {"factor": 0.5, "patience": 3, "threshold": 1e-3, "eps": 0.0}

    def find_misfit(
        self, schedule: Schedule, evaluations: Iterable[int], early_stopping_patience: int | None
    ) -> str | None:
        patience = self.settings["patience"]
        if early_stopping_patience is not None and early_stopping_patience <= patience + 1:
            return f"early stopping (patience {early_stopping_patience}) comes before a cut (patience {patience})"
        return super().find_misfit(schedule, evaluations, early_stopping_patience)


class GreedyCallback(EvaluationRule):
    """
    transformers' `GreedyLR`, with its arguments: raise the learning rate after more than `patience` evaluations in a
    row that improve, and lower it after as many that do not. The defaults suit one evaluation an epoch; `max_lr` 0 is
    ten times the peak of the schedule.
    """

    RULE: ClassVar[type[ReduceLROnPlateau] | type[GreedyLR]] = GreedyLR
    DEFAULTS: ClassVar[dict[str, float]] = {"factor": 0.8, "patience": 1, "min_lr": 0.0, "max_lr": 0.0}


_PLATEAU = {
    "description": "cut when the evaluation metric stops improving",
    "source": "torch, https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ReduceLROnPlateau.html",
    "factory": make_constant,
    "arguments": dict.fromkeys(("factor", "patience", "threshold", "cooldown", "min_lr", "eps"), NUMBER),
    "rule": PlateauCallback,
    "check_arguments": PlateauCallback.check_arguments,
    "falls": False,
}
SPECS = (
    ScheduleSpec(name="reduce_lr_on_plateau", label="reduce on plateau", **_PLATEAU),
    ScheduleSpec(
        name="reduce_lr_on_plateau_with_warmup",
        label="reduce on plateau with warmup",
        default_warmup=DEFAULT_WARMUP,
        **_PLATEAU,
    ),
    ScheduleSpec(
        name="greedy",
        label="greedy",
        description="raised while the metric improves, lowered where it does not",
        source="Subramanian et al. 2025, https://arxiv.org/abs/2512.14527",
        factory=make_constant,
        arguments={
            "factor": NUMBER,
            "patience": NUMBER,
            "threshold": NUMBER,
            "cooldown": NUMBER,
            "warmup": NUMBER,
            "min_lr": NUMBER,
            "max_lr": NUMBER,
            "eps": NUMBER,
            "smooth": BOOLEAN,
            "window_size": NUMBER,
            "reset_start": NUMBER,
        },
        rule=GreedyCallback,
        check_arguments=GreedyCallback.check_arguments,
        falls=False,
    ),
)
