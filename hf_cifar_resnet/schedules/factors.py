"""Schedules that are a simple function of the step: step, exponential and REX."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from .scheduler import Factor, Schedule, with_linear_warmup
from .spec import NUMBER, NUMBERS, Factory, ScheduleSpec


def factory_of(make_factor: Callable[..., Factor]) -> Factory:
    """Return the factory of a schedule after a linear warmup; `make_factor` takes total and warmup steps first."""

    def factory(
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int,
        arguments: Mapping[str, Any],
        optimizer_state: Collection[str],
    ) -> Schedule:
        factor = make_factor(total_steps, warmup_steps, **arguments)
        return Schedule(optimizer, with_linear_warmup(factor, warmup_steps), warmup_steps, optimizer_state)

    return factory


def step_factor(
    total_steps: int, warmup_steps: int, milestones: Sequence[float] = (0.3, 0.6, 0.8), gamma: float = 0.2
) -> Factor:
    """Multiply by `gamma` at each milestone, a step or, below 1, a share of all steps."""
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be from 0 to 1, got {gamma}")
    steps = [milestone if milestone >= 1 else milestone * total_steps for milestone in milestones]
    return lambda step: gamma ** sum(step >= milestone for milestone in steps)


def exponential_factor(total_steps: int, warmup_steps: int, final_factor: float = 0.01) -> Factor:
    """Multiply by the same ratio at every step after the warmup, from 1 to `final_factor` at the end."""
    if not 0 < final_factor <= 1:  # 0 would give a learning rate of 0 after the first step
        raise ValueError(f"final_factor must be above 0 and at most 1, got {final_factor}")
    length = max(1, total_steps - warmup_steps)
    return lambda step: final_factor ** ((step - warmup_steps) / length)


def rex_factor(total_steps: int, warmup_steps: int) -> Factor:
    """Fall slowly at first and fast at the end (equation 1 of the paper)."""
    length = max(1, total_steps - warmup_steps)

    def factor(step: int) -> float:
        remaining = 1 - (step - warmup_steps) / length
        return remaining / (0.5 + 0.5 * remaining)

    return factor


def _find_late_milestones(total_steps: int, warmup_steps: int, arguments: Mapping[str, Any]) -> str | None:
    milestones = arguments.get("milestones", ())
    late = [f"{milestone:g}" for milestone in milestones if milestone >= max(1, total_steps)]
    return f"it never comes to milestone {' and '.join(late)}" if late else None


SPECS = (
    ScheduleSpec(
        name="step",
        label="step decay",
        description="times 0.2 at 30%, 60% and 80% of the steps",
        source="Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146",
        factory=factory_of(step_factor),
        arguments={"milestones": NUMBERS, "gamma": NUMBER},
        find_late_part=_find_late_milestones,
    ),
    ScheduleSpec(
        name="exponential",
        label="exponential decay",
        description="falls by the same ratio at every step, to 1%",
        source="torch, https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ExponentialLR.html",
        factory=factory_of(exponential_factor),
        arguments={"final_factor": NUMBER},
    ),
    ScheduleSpec(
        name="rex",
        label="REX",
        description="falls slowly at first, fast at the end",
        source="Chen et al. 2021, https://arxiv.org/abs/2107.04197",
        factory=factory_of(rex_factor),
    ),
)
