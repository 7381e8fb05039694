"""
Learning-rate schedules by name: transformers' own, torch's `one_cycle`, and our `step`, `exponential`, `rex`, `points`.

A schedule that follows evaluations (plateau and greedy) is a constant one (after an optional warmup) that a
[`ScheduleCallback`] scales, so that the learning rate is logged, saved in `scheduler.pt` and restored.
"""

import csv
import inspect
import math
import os
import warnings
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau
from transformers import SchedulerType, TrainerCallback, get_scheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, GreedyLR

from ..documents import parse_yaml
from ..errors import explained
from .optimizers import SCHEDULE_FREE_STATE

PLATEAU = "reduce_lr_on_plateau"
WITHOUT_WARMUP = {
    "constant": "constant has no warmup: use constant_with_warmup",
    "one_cycle": 'one_cycle has its own warmup: give lr_scheduler_kwargs {"pct_start": ...}, not warmup_steps',
}
# Share of all steps that schedules with a warmup in their name warm up for when `warmup_steps` is not given.
DEFAULT_WARMUP = 0.05
STABLE_DECAY = "warmup_stable_decay"
LIMITS = ("min_lr", "max_lr")  # of the learning rate of a rule
# At how many steps or evaluations of a run we look to see what a schedule does.
SAMPLES = 1000


def _step_factor(step, warmup_steps, total_steps, milestones=(0.3, 0.6, 0.8), gamma=0.2):
    """Multiply by `gamma` at each milestone, a step or, below 1, a share of all steps (defaults: Zagoruyko 2016)."""
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be from 0 to 1, got {gamma}")
    return gamma ** sum(step >= (m if m >= 1 else m * total_steps) for m in milestones)


def _exponential_factor(step, warmup_steps, total_steps, final_factor=0.01):
    """Multiply by the same ratio at every step after the warmup, from 1 to `final_factor` at the end."""
    if not 0 < final_factor <= 1:  # 0 would give a learning rate of 0 after the first step
        raise ValueError(f"final_factor must be above 0 and at most 1, got {final_factor}")
    return final_factor ** ((step - warmup_steps) / max(1, total_steps - warmup_steps))


def _rex_factor(step, warmup_steps, total_steps):
    """Fall slowly at first and fast at the end (REX: Chen et al. 2021, arXiv 2107.04197, equation 1)."""
    left = 1 - (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return left / (0.5 + 0.5 * left)


def _points_factor(step, warmup_steps, total_steps, points=((0, 0.1), (0.2, 1), (1, 0))):
    """
    Join points (position, factor) by straight lines. `points` is a list of pairs, or a YAML or CSV file of them; the
    positions are shares of all steps if none is above 1, else steps; the factors are shares of the peak.
    """
    points = _points(points)
    position = step if points[-1][0] > 1 else step / total_steps
    return float(np.interp(position, *zip(*points, strict=True)))


def _points(points):
    return _read_points(points) if isinstance(points, str) else _checked_points(points, "points")


@lru_cache
def _read_points(file):
    # Constructors of YAML raise more than YAMLError. Spreadsheets begin a CSV file with a byte order mark.
    place = os.path.expanduser(file)
    with explained(f"{file} cannot be read", Exception), open(place, encoding="utf-8-sig", newline="") as stream:
        rows = [row for row in csv.reader(stream) if row] if file.endswith(".csv") else parse_yaml(stream)
        header = file.endswith(".csv") and rows and not _is_number(rows[0][0])
    return _checked_points(rows[1:] if header else rows, file)


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def _checked_points(points, source):
    try:
        points = [(float(position), float(factor)) for position, factor in points]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} must have rows of two numbers, a position and a factor") from error
    positions = [position for position, _ in points]
    if not points or positions != sorted(set(positions)):
        raise ValueError(f"the positions of {source} must rise from row to row")
    if max(factor for _, factor in points) > 1:
        raise ValueError(f"the factors of {source} are shares of the peak learning rate, at most 1")
    return points


_OWN_FACTORS = {"step": _step_factor, "exponential": _exponential_factor, "rex": _rex_factor, "points": _points_factor}


class _Positioned:
    """
    Mixin that saves only the position in a schedule, so that a resumed run gets learning rates and optimizer settings
    from its own arguments. Otherwise a finished run that is prolonged would continue with a learning rate of 0, and
    another `--learning_rate` or `--weight_decay` would have no effect.
    """

    POSITION = ("last_epoch",)

    def __init__(self, optimizer, *args, **kwargs):
        super().__init__(optimizer, *args, **kwargs)
        self._settings = [
            {name: value for name, value in group.items() if name not in ("params", "lr", *SCHEDULE_FREE_STATE)}
            for group in optimizer.param_groups
        ]

    def state_dict(self):
        return {name: getattr(self, name) for name in self.POSITION}

    def load_state_dict(self, state):
        vars(self).update({name: state[name] for name in self.POSITION if name in state})
        # The Trainer has loaded the optimizer's old settings before.
        for group, settings in zip(self.optimizer.param_groups, self._settings, strict=True):
            group.update(settings)
        self.last_epoch = state["last_epoch"] - 1
        with warnings.catch_warnings(action="ignore"):  # torch warns if the optimizer has not stepped yet
            self.step()


class OneCycle(_Positioned, OneCycleLR):
    """torch's OneCycleLR, momentum cycling included; `learning_rate` is its peak (Smith 2018, arXiv 1803.09820)."""


class Schedule(_Positioned, LambdaLR):
    """
    A schedule `learning_rate * factor(step) * scale`, whose `scale` events may change.

    `scale` and `memory` (a dict of numbers and strings) are saved and restored with the schedule.
    """

    POSITION = ("last_epoch", "scale", "memory")

    def __init__(self, optimizer, lr_lambda, warmup_steps=0):
        self.scale, self.memory, self.warmup_steps = 1.0, {}, warmup_steps
        super().__init__(optimizer, lr_lambda)

    def get_lr(self):
        factors = zip(self.base_lrs, self.lr_lambdas, strict=True)
        return [lr * factor(self.last_epoch) * self.scale for lr, factor in factors]

    def rescale(self, scale):
        """Set the scale from the next step on."""
        self.scale = scale
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr


class ScheduleCallback(TrainerCallback):
    """
    A learning-rate schedule that reacts to events. Pass an instance of a subclass to [`CifarTrainer`] in `callbacks`,
    and it scales the schedule of `lr_scheduler_type`.

    ```python
    class HalveEveryEvaluation(ScheduleCallback):
        def after_evaluation(self, schedule, metrics, args):
            schedule.rescale(schedule.scale / 2)
    ```

    `schedule` is a [`Schedule`], whose `memory` is saved with every checkpoint, unlike attributes of the callback.
    """

    def after_evaluation(self, schedule, metrics, args):
        """Called after every evaluation with its metrics, such as `eval_loss` and `eval_top1`."""

    def after_warmup(self, schedule, args):
        """Called once, after the last step of the warmup."""

    def after_epoch(self, schedule, epoch, args):
        """Called after every epoch with the number of epochs so far."""

    def on_evaluate(self, args, state, control, metrics=None, lr_scheduler=None, **kwargs):
        # Evaluations before training or with another prefix do not count.
        if lr_scheduler is not None and state.global_step > 0 and any(name.startswith("eval_") for name in metrics):
            self.after_evaluation(lr_scheduler, metrics, args)

    def on_step_end(self, args, state, control, lr_scheduler=None, **kwargs):
        if state.global_step == lr_scheduler.warmup_steps:
            self.after_warmup(lr_scheduler, args)

    def on_epoch_end(self, args, state, control, lr_scheduler=None, **kwargs):
        self.after_epoch(lr_scheduler, round(state.epoch), args)


class _EvaluationRule(ScheduleCallback):
    """
    A rule that scales the learning rate by `metric_for_best_model`. Evaluations during a warmup do not count.

    Its arguments are those of `RULE`, a scheduler of torch or transformers, with some `DEFAULTS` of ours: numbers that
    are not negative, and a `factor` between 0 and 1.
    """

    # What is saved of the state of a rule; its settings are those of the resumed run.
    MEMORY = ("best", "num_bad_epochs", "num_good_epochs", "cooldown_counter", "warmup_counter", "reset_start",
              "_streaming_avg")  # fmt: skip

    def __init__(self, **settings):
        self.settings = settings = self.DEFAULTS | settings
        for name, value in settings.items():
            if not isinstance(value, (int, float)) or not value >= 0:
                raise ValueError(f"{name} must be a number and not negative, got {value!r}")
        if settings.get("window_size", 1) < 1:
            raise ValueError(f"window_size must be at least 1, got {settings['window_size']}")
        if not 0 < settings["factor"] < 1:
            raise ValueError(f"factor must be above 0 and below 1, got {settings['factor']}")

    def after_evaluation(self, schedule, metrics, args):
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        if name in metrics and schedule.last_epoch >= schedule.warmup_steps:
            self.apply(schedule, metrics[name], args.greater_is_better)

    def check_peak(self, peak):
        """Raise `ValueError` where the limits of the learning rate do not suit its peak."""
        if not self.settings.get("min_lr", 0.0) <= peak <= (self.settings.get("max_lr") or math.inf):
            limits = " and ".join(f"{name} {self.settings[name]:g}" for name in LIMITS if self.settings.get(name))
            raise ValueError(f"the peak learning rate {peak:g} is not within {limits}")

    def apply(self, schedule, value, greater_is_better):
        """Add an evaluation to the memory of a [`Schedule`], and rescale it if necessary."""
        # The learning rate of this optimizer is the scale of the schedule, which is 1 in the beginning.
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        settings = self.settings.copy()
        for name in settings.keys() & {*LIMITS, "eps"}:
            settings[name] /= schedule.base_lrs[0]
        if settings.get("max_lr") == 0:
            settings["max_lr"] = 10
        rule = self.RULE(optimizer, "max" if greater_is_better else "min", **settings)
        rule.load_state_dict({name: schedule.memory[name] for name in self.MEMORY if name in schedule.memory})
        optimizer.param_groups[0]["lr"] = schedule.scale
        rule.step(value)
        state = rule.state_dict()
        schedule.memory |= {name: state[name] for name in self.MEMORY if name in state}
        schedule.rescale(optimizer.param_groups[0]["lr"])


class PlateauCallback(_EvaluationRule):
    """
    torch's `ReduceLROnPlateau`, with its arguments: cut after more than `patience` evaluations in a row without an
    improvement by the relative `threshold`.
    """

    RULE, DEFAULTS = ReduceLROnPlateau, {"factor": 0.5, "patience": 3, "threshold": 1e-3, "eps": 0.0}


class GreedyCallback(_EvaluationRule):
    """
    transformers' `GreedyLR` (arXiv 2512.14527), with its arguments: raise the learning rate after more than `patience`
    evaluations in a row that improve, and lower it after as many that do not. The defaults suit one evaluation an
    epoch; `max_lr` 0 is ten times the peak of the schedule.
    """

    RULE, DEFAULTS = GreedyLR, {"factor": 0.8, "patience": 1, "min_lr": 0.0, "max_lr": 0.0}


_BY_EVALUATIONS = {PLATEAU: PlateauCallback, f"{PLATEAU}_with_warmup": PlateauCallback, "greedy": GreedyCallback}
_OTHERS = {"cosine_with_warmup", "one_cycle", *(kind.value for kind in SchedulerType)}
SCHEDULES = sorted({*_OTHERS, *_BY_EVALUATIONS, *_OWN_FACTORS})
# Parameters that are set here, and not in `lr_scheduler_kwargs`.
_SET_HERE = set(
    "self optimizer mode threshold_mode verbose epochs steps_per_epoch step last_epoch warmup_steps total_steps "
    "num_warmup_steps num_training_steps".split()
)


def accepted_arguments(name):
    """Return the names that `lr_scheduler_kwargs` may contain for a schedule."""
    rules = {rule: callback.RULE for rule, callback in _BY_EVALUATIONS.items()}
    functions = {**rules, **_OWN_FACTORS, "one_cycle": OneCycleLR}
    function = functions.get(name) or TYPE_TO_SCHEDULER_FUNCTION[name.replace("cosine_with_warmup", "cosine")]
    ours = _SET_HERE | {"max_lr"} if name == "one_cycle" else _SET_HERE
    return [parameter for parameter in inspect.signature(function).parameters if parameter not in ours]


def check(name, kwargs, warmup_steps=0):
    """Raise `ValueError`, with the choices, for an unknown schedule or unknown arguments."""
    if name not in SCHEDULES:
        raise ValueError(f"unknown lr_scheduler_type {name!r}: choose one of {', '.join(SCHEDULES)}")
    accepted = accepted_arguments(name)
    unknown = sorted(set(kwargs) - set(accepted))
    if unknown:
        choices = ", ".join(accepted) or "none"
        raise ValueError(f"{name} does not take {', '.join(unknown)} in lr_scheduler_kwargs; it takes: {choices}")
    if warmup_steps and name in WITHOUT_WARMUP:
        raise ValueError(WITHOUT_WARMUP[name])
    for momentum in {"base_momentum", "max_momentum"} & kwargs.keys():
        if not isinstance(kwargs[momentum], (int, float)) or not 0 <= kwargs[momentum] < 1:
            raise ValueError(f"{momentum} must be a number from 0 to below 1, got {kwargs[momentum]!r}")
    callbacks_for(name, kwargs)


def try_out(name, peak, warmup_steps, kwargs, max_steps=-1):
    """
    Compute a short run. Raises `ValueError` if the arguments do not work, or give learning rates that are impossible or
    above the peak.
    """
    check(name, kwargs, warmup_steps)
    total = min(max_steps, SAMPLES) if max_steps > 0 else SAMPLES
    try:
        for rule in callbacks_for(name, kwargs):
            rule.check_peak(peak)
        rates = rates_at(next(dry_run(name, total, peak, min(warmup_steps, total), kwargs)), range(total))
        # What comes after the warmup too, however long that is.
        later = rates_at(next(dry_run(name, SAMPLES, peak, 0, kwargs)), range(SAMPLES))
    except (TypeError, ValueError, ArithmeticError, AssertionError) as error:
        raise ValueError(f"{name} does not work with lr_scheduler_kwargs {kwargs}: {error}") from error
    given = f"{name} with lr_scheduler_kwargs {kwargs} and warmup_steps {warmup_steps:g} has the learning rate"
    if impossible := [rate for rate in rates + later if not 0 <= rate < math.inf]:
        raise ValueError(f"{given} {impossible[0]:.3g}, which is impossible")
    if not any(rates) or not any(later):
        raise ValueError(f"{given} 0 at every step")
    if max(rates + later) > peak * (1 + 1e-6):  # rounding may lift it a little
        raise ValueError(f"{given} {max(rates + later):.3g}, above the peak {peak:.3g}")


def dry_run(name, total_steps, learning_rate, warmup_steps=0, kwargs=None):
    """Yield the scheduler before each step of a run without training."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)
    scheduler = create(name, optimizer, total_steps, warmup_steps, kwargs)
    for _ in range(total_steps):
        yield scheduler
        optimizer.step()
        scheduler.step()


def is_by_evaluations(name: str) -> bool:
    """Return whether a schedule follows evaluations."""
    return name in _BY_EVALUATIONS


def find_misfit(name, total_steps, peak, warmup_steps=0, kwargs=None, evaluations=(), early_stopping_patience=None):
    """
    Return a sentence that says where a schedule does not fit a run, such as a warmup that is longer, or None.

    Args:
        evaluations (`Iterable[int]`): the steps after which the run is evaluated.
        All others as in [`create`] and the training arguments.
    """
    kwargs = kwargs or {}
    scheduler = next(dry_run(name, total_steps, peak, warmup_steps, kwargs))
    warmup = getattr(scheduler, "warmup_steps", 0)
    steps = np.unique(np.linspace(0, total_steps - 1, SAMPLES).round().astype(int)).tolist()
    rates = rates_at(scheduler, sorted({*steps, min(warmup, total_steps - 1)}))
    top, last = max(rates), max((index for index, rate in enumerate(rates) if rate), default=-1)
    parts = [f"its warmup takes {warmup:,}"] if warmup >= total_steps else []
    if late := _find_late_part(name, total_steps, warmup, kwargs):
        parts.append(late)
    if top < 0.9 * peak and (name != "points" or warmup >= total_steps):
        parts.append(f"the LR reaches at most {100 * top / peak:.2g}% of its peak")
    can_fall = name not in (*_BY_EVALUATIONS, "constant", "constant_with_warmup", "points")
    if kwargs and can_fall and warmup < total_steps - 1 and min(rates[rates.index(top) :]) > (1 - 1e-6) * top:
        parts.append("the LR never falls")
    if last < len(rates) - 2 and (rest := 1 - (last + 1) / len(rates)) > 0.02:
        parts.append(f"the LR is 0 for the last {rest:.0%} of them")
    idle = name in _BY_EVALUATIONS and _find_idle_rule(name, scheduler, kwargs, evaluations, early_stopping_patience)
    if idle:
        parts.append(idle)
    run = f"a run of {total_steps:,} step{'s' * (total_steps != 1)}"
    return f"{name} does not fit {run}: {', '.join(parts)}" if parts else None


def rates_at(scheduler, steps):
    """Return the learning rates at these steps, from a scheduler's closed form."""
    rates = []
    with warnings.catch_warnings(action="ignore"):  # torch expects to be stepped
        for scheduler.last_epoch in steps:
            rates.append(scheduler.get_lr()[0])
    scheduler.last_epoch = 0
    return rates


def _find_late_part(name, total_steps, warmup, kwargs):
    """Name what is given in steps and comes after the end of a run, or return None."""
    if name == "step":
        late = [f"{milestone:g}" for milestone in kwargs.get("milestones", ()) if milestone >= max(1, total_steps)]
        return f"it never comes to milestone {' and '.join(late)}" if late else None
    if name == "points" and kwargs:
        position = _points(kwargs["points"])[-1][0]
        return f"the last point is at step {position:g}" if position > max(1, total_steps) else None
    if name == STABLE_DECAY and kwargs:
        decay = kwargs.get("num_decay_steps", math.ceil(0.2 * total_steps))
        planned = warmup + (kwargs.get("num_stable_steps") or 0) + decay
        return f"warmup, constant part and decay take {planned:,}" if planned > total_steps > warmup else None
    return None


def _find_idle_rule(name, scheduler, kwargs, evaluations, early_stopping_patience):
    """Say that the rule of a schedule cannot change the learning rate before the run ends, or return None."""
    [rule] = callbacks_for(name, kwargs)
    patience = rule.settings.get("patience", 0)
    if early_stopping_patience is not None and early_stopping_patience <= patience + 1 and name != "greedy":
        return f"early stopping (patience {early_stopping_patience}) comes before a cut (patience {patience})"
    counted = list(islice((step for step in evaluations if step >= scheduler.warmup_steps), SAMPLES + 1))
    if len(counted) > SAMPLES:
        return None
    for change in (0.0, 1.0):  # nothing improves, all improve
        scheduler.memory, scheduler.scale = {}, 1.0
        for number in range(len(counted)):
            rule.apply(scheduler, -change * number, greater_is_better=False)
            if scheduler.scale != 1:
                return None
    plural = "s" * (len(counted) != 1)
    return f"the LR cannot change in the {len(counted)} evaluation{plural} between its warmup and its last step"


def callbacks_for(name, kwargs):
    """Return the callbacks that a schedule needs."""
    return [_BY_EVALUATIONS[name](**kwargs)] if name in _BY_EVALUATIONS else []


def default_warmup(name, warmup_steps):
    """Return `warmup_steps`, or the default of a `*_with_warmup` schedule or `warmup_stable_decay` if it is 0."""
    has_warmup = name.endswith("_with_warmup") or name == STABLE_DECAY
    return DEFAULT_WARMUP if warmup_steps == 0 and has_warmup else warmup_steps


def create(name, optimizer, total_steps, warmup_steps=0, kwargs=None, by_events=False):
    """
    Return the scheduler of a run, to be stepped after every optimizer step.

    Args:
        name (`str`): one of `SCHEDULES`.
        total_steps (`int`): optimizer steps of the run.
        warmup_steps (`float`): steps of linear warmup, or below 1 their share of all steps.
        kwargs (`dict`, *optional*): see [`accepted_arguments`].
        by_events (`bool`): whether a [`ScheduleCallback`] will scale it.
    """
    kwargs = dict(kwargs or {})
    check(name, kwargs, warmup_steps)
    warmup = default_warmup(name, warmup_steps)
    # One step at least is not warmup, whose first learning rate is 0.
    warmup = int(warmup) if warmup >= 1 else min(math.ceil(warmup * total_steps), total_steps - 1)
    if name in _BY_EVALUATIONS:
        name, kwargs = "constant_with_warmup", {}
    if name == "one_cycle":
        if by_events:
            raise ValueError("one_cycle sets the momentum too and cannot be scaled by a ScheduleCallback")
        peaks = [group["lr"] for group in optimizer.param_groups]
        has_momentum = not optimizer.defaults.keys().isdisjoint(("momentum", "betas"))
        kwargs = {"cycle_momentum": has_momentum} | kwargs
        with explained("one_cycle does not suit this optimizer", ValueError):
            return OneCycle(optimizer, max_lr=peaks, total_steps=total_steps, **kwargs)
    if name not in _OWN_FACTORS:
        return Schedule(optimizer, _from_transformers(name, optimizer, total_steps, warmup, kwargs).lr_lambdas, warmup)

    def factor(step):
        return step / warmup if step < warmup else _OWN_FACTORS[name](step, warmup, total_steps, **kwargs)

    return Schedule(optimizer, factor, warmup)


def _from_transformers(name, optimizer, total_steps, warmup, kwargs):
    # Defaults of arguments without which transformers refuses to run, or gives a plain cosine.
    if name.endswith("_with_min_lr") and not {"min_lr", "min_lr_rate"} & kwargs.keys():
        kwargs["min_lr_rate"] = 0.1
    if name == "cosine_with_restarts":
        kwargs.setdefault("num_cycles", 3)
    if name == STABLE_DECAY:
        kwargs.setdefault("num_decay_steps", math.ceil(0.2 * total_steps))
    return get_scheduler(
        name.replace("cosine_with_warmup", "cosine"),
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=total_steps,
        scheduler_specific_kwargs=kwargs,
    )
