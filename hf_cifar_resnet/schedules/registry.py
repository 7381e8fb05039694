"""The registry: every schedule by its name."""

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

from torch.optim import Optimizer

from . import evaluations, factors, one_cycle, points, transformers_schedules
from .scheduler import ResumableScheduler
from .spec import ScheduleSpec

_FAMILIES = (transformers_schedules, factors, points, one_cycle, evaluations)
_SPECS = {spec.name: spec for family in _FAMILIES for spec in family.SPECS}


def names() -> list[str]:
    """Return the names of all schedules, in alphabetical order."""
    return sorted(_SPECS)


def get(name: str) -> ScheduleSpec:
    """Return the schedule of this name, which may be a `SchedulerType`. Raises `ValueError`, with all names."""
    name = str(name.value if isinstance(name, Enum) else name)
    if name not in _SPECS:
        raise ValueError(f"unknown lr_scheduler_type {name!r}: choose one of {', '.join(names())}")
    return _SPECS[name]


def check(name: str, arguments: Mapping[str, Any], warmup_steps: float = 0) -> None:
    """Raise `ValueError`, with the choices, for an unknown schedule, unknown arguments or values that cannot work."""
    spec = get(name)
    unknown = sorted(set(arguments) - set(spec.arguments))
    if unknown:
        choices = ", ".join(spec.arguments) or "none"
        raise ValueError(f"{spec.name} does not take {', '.join(unknown)} in lr_scheduler_kwargs; it takes: {choices}")
    if warmup_steps and not spec.takes_warmup and spec.own_warmup:
        raise ValueError(
            f'{spec.name} has its own warmup: give lr_scheduler_kwargs {{"{spec.own_warmup}": ...}}, not warmup_steps'
        )
    if warmup_steps and not spec.takes_warmup:
        raise ValueError(f"{spec.name} has no warmup: use {spec.name}_with_warmup")
    for argument, value in arguments.items():
        kind = spec.arguments[argument]
        if not kind.accepts(value):
            raise ValueError(f"{argument} of {spec.name} must be {kind.words}, got {value!r}")
    if spec.check_arguments:
        spec.check_arguments(arguments)


def create(
    name: str,
    optimizer: Optimizer,
    total_steps: int,
    warmup_steps: float = 0,
    arguments: Mapping[str, Any] | None = None,
    *,
    scaled_by_callback: bool = False,
    optimizer_state: Collection[str] = (),
) -> ResumableScheduler:
    """
    Return the scheduler of a run, to be stepped after every optimizer step: a [`Schedule`], or for `one_cycle` torch's
    own. Its peak is the learning rate of the optimizer. Raises `ValueError` for wrong arguments.

    Args:
        name (`str`): one of [`names`].
        total_steps (`int`): optimizer steps of the run.
        warmup_steps (`float`): steps of linear warmup, or below 1 their share of all steps; 0 means the default of the
            schedule.
        arguments (`Mapping`, *optional*): the `lr_scheduler_kwargs`; see [`ScheduleSpec.arguments`].
        scaled_by_callback (`bool`): whether a [`ScheduleCallback`] will scale it.
        optimizer_state (`Collection[str]`): what the optimizer counts in its parameter groups, beside its settings.
    """
    arguments = dict(arguments or {})
    check(name, arguments, warmup_steps)
    spec = get(name)
    if scaled_by_callback and not spec.can_be_scaled:
        raise ValueError(f"{spec.name} sets the momentum too and cannot be scaled by a ScheduleCallback")
    warmup = spec.count_warmup_steps(warmup_steps, total_steps)
    return spec.factory(optimizer, total_steps, warmup, {} if spec.rule else arguments, optimizer_state)
