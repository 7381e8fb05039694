"""What is known about a schedule: all facts about one stand in its [`ScheduleSpec`]."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from .callback import ScheduleCallback
    from .evaluations import EvaluationRule
    from .scheduler import ResumableScheduler

# The share of all steps that a schedule with a warmup in its name warms up for when `warmup_steps` is not given.
DEFAULT_WARMUP = 0.05


@dataclass(frozen=True)
class ArgumentKind:
    """What the value of an argument has to be: in words, and as a function that says whether a value is that."""

    words: str
    accepts: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def one_of(*choices: str) -> ArgumentKind:
    return ArgumentKind(f"one of {', '.join(choices)}", lambda value: value in choices)


NUMBER = ArgumentKind("a number", is_number)
NUMBERS = ArgumentKind(
    "a list of numbers", lambda value: isinstance(value, (list, tuple)) and all(map(is_number, value))
)
BOOLEAN = ArgumentKind("true or false", lambda value: isinstance(value, bool))


class Factory(Protocol):
    """Makes the scheduler of a run. The arguments are those of [`registry.create`], the warmup in steps."""

    def __call__(
        self,
        optimizer: "Optimizer",
        total_steps: int,
        warmup_steps: int,
        arguments: Mapping[str, Any],
        optimizer_state: Collection[str],
    ) -> "ResumableScheduler": ...


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """
    One learning-rate schedule.

    Args:
        name (`str`): its name on the command line, in recipes and in file names.
        label (`str`): its name in pictures.
        description (`str`): what the learning rate does after the warmup, for a table.
        source (`str`): who describes it, and where: `name, URL`.
        factory (`Factory`): makes its scheduler.
        arguments (`Mapping[str, ArgumentKind]`): the names that `lr_scheduler_kwargs` may have, and their values.
        takes_warmup (`bool`): whether `warmup_steps` may be given.
        default_warmup (`float`): the share of all steps to warm up for when `warmup_steps` is not given.
        own_warmup (`str`, *optional*): the argument that shapes a warmup which the schedule has of its own, whatever
            `warmup_steps` is.
        rule (`type[EvaluationRule]`, *optional*): changes the learning rate after evaluations; without one, the
            schedule is a function of the step alone. The arguments are those of the rule.
        can_be_scaled (`bool`): whether a [`ScheduleCallback`] can scale it.
        falls (`bool`): whether the learning rate is meant to fall after its peak in every run.
        reaches_peak (`bool`): whether it is meant to reach the learning rate of the training arguments in every run.
        check_arguments (`Callable`, *optional*): raises `ValueError` for values that no run can use.
        find_late_part (`Callable`, *optional*): takes the steps of a run, those of its warmup and the arguments, and
            returns a sentence about what is given in steps and comes after the end of the run, or None.
    """

    name: str
    label: str
    description: str
    source: str
    factory: Factory
    arguments: Mapping[str, ArgumentKind] = field(default_factory=dict)
    takes_warmup: bool = True
    default_warmup: float = 0.0
    own_warmup: str | None = None
    rule: "type[EvaluationRule] | None" = None
    can_be_scaled: bool = True
    falls: bool = True
    reaches_peak: bool = True
    check_arguments: Callable[[Mapping[str, Any]], None] | None = None
    find_late_part: Callable[[int, int, Mapping[str, Any]], str | None] | None = None

    @property
    def by_evaluations(self) -> bool:
        """Whether the learning rate follows evaluations; all others are known before the run."""
        return self.rule is not None

    def describe_warmup(self) -> str:
        """Return the warmup in a few words, for a table."""
        own = f"its own, by `{self.own_warmup}`" if self.own_warmup else "none"
        if not self.takes_warmup:
            return own
        return f"`warmup_steps`, by default {f'{self.default_warmup:.0%} of all' if self.default_warmup else own}"

    def resolve_warmup(self, warmup_steps: float) -> float:
        """Return `warmup_steps`, or the default of this schedule if it is 0."""
        return warmup_steps or self.default_warmup

    def count_warmup_steps(self, warmup_steps: float, total_steps: int) -> int:
        """Return the steps of the warmup in a run, from a number of steps or, below 1, a share of all steps."""
        warmup = self.resolve_warmup(warmup_steps)
        if warmup >= 1:
            return int(warmup)
        # The first learning rate of a warmup is 0, so one step at least follows it.
        return min(math.ceil(warmup * total_steps), total_steps - 1)

    def make_callbacks(self, arguments: Mapping[str, Any] | None = None) -> "list[ScheduleCallback]":
        """Return the callbacks that a training with this schedule needs. Raises `ValueError` for wrong arguments."""
        return [] if self.rule is None else [self.rule(**(arguments or {}))]
