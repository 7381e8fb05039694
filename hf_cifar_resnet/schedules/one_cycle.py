"""One cycle of the learning rate, up and down, with the momentum the other way."""

from collections.abc import Collection, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from ..errors import explained
from .scheduler import ResumableScheduler
from .spec import BOOLEAN, NUMBER, ScheduleSpec, one_of


class OneCycle(ResumableScheduler, OneCycleLR):
    """torch's OneCycleLR, momentum cycling included; `learning_rate` is its peak."""


def make_one_cycle(
    optimizer: Optimizer,
    total_steps: int,
    warmup_steps: int,
    arguments: Mapping[str, Any],
    optimizer_state: Collection[str],
) -> OneCycle:
    peaks = [group["lr"] for group in optimizer.param_groups]
    has_momentum = not optimizer.defaults.keys().isdisjoint(("momentum", "betas"))
    arguments = {"cycle_momentum": has_momentum} | dict(arguments)
    if arguments["cycle_momentum"] and not has_momentum:
        raise ValueError("one_cycle does not suit this optimizer: it has no momentum, so cycle_momentum must be false")
    with explained("one_cycle", ValueError):
        return OneCycle(optimizer, max_lr=peaks, total_steps=total_steps, optimizer_state=optimizer_state, **arguments)


def check_momentum(arguments: Mapping[str, Any]) -> None:
    for name in sorted({"base_momentum", "max_momentum"} & arguments.keys()):
        if not 0 <= arguments[name] < 1:
            raise ValueError(f"{name} must be from 0 to below 1, got {arguments[name]}")


SPECS = (
    ScheduleSpec(
        name="one_cycle",
        label="one-cycle",
        description="up for the first 30% of the steps, then down to 0; the momentum goes the other way",
        source="Smith 2018, https://arxiv.org/abs/1803.09820",
        factory=make_one_cycle,
        arguments={
            "pct_start": NUMBER,
            "anneal_strategy": one_of("cos", "linear"),
            "cycle_momentum": BOOLEAN,
            "base_momentum": NUMBER,
            "max_momentum": NUMBER,
            "div_factor": NUMBER,
            "final_div_factor": NUMBER,
            "three_phase": BOOLEAN,
        },
        takes_warmup=False,
        own_warmup="pct_start",
        can_be_scaled=False,
        check_arguments=check_momentum,
    ),
)
