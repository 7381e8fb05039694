"""The schedules of transformers, with its names, under a [`Schedule`] that saves only its position."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import transformers
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from .scheduler import Schedule
from .spec import DEFAULT_WARMUP, NUMBER, Factory, ScheduleSpec, one_of

SOURCE = "transformers, https://huggingface.co/docs/transformers/main_classes/optimizer_schedules"
COSINE_SOURCE = "Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983"
SHAPES = ("linear", "cosine", "1-sqrt")
DECAY = 0.2  # the share of all steps for which `warmup_stable_decay` lowers the learning rate


def _factory(make: Callable[..., LambdaLR], **defaults: Any) -> Factory:
    """Return a factory that calls a function of transformers; `defaults` are arguments that it gets if not given."""

    def factory(
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int,
        arguments: Mapping[str, Any],
        optimizer_state: Collection[str],
    ) -> Schedule:
        made = make(
            optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps, **(defaults | dict(arguments))
        )
        return Schedule(optimizer, made.lr_lambdas, warmup_steps, optimizer_state)

    return factory


def _make_constant(optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int) -> LambdaLR:
    # The constant schedule of transformers with a warmup of 0 steps is the one that it has without.
    return transformers.get_constant_schedule_with_warmup(optimizer, num_warmup_steps)


def _make_inverse_sqrt(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, **arguments: Any
) -> LambdaLR:
    return transformers.get_inverse_sqrt_schedule(optimizer, num_warmup_steps, **arguments)


def _with_floor(make: Callable[..., LambdaLR]) -> Callable[..., LambdaLR]:
    """transformers refuses to run without one of the two arguments."""

    def made(*args: Any, **arguments: Any) -> LambdaLR:
        if not {"min_lr", "min_lr_rate"} & arguments.keys():
            arguments["min_lr_rate"] = 0.1
        return make(*args, **arguments)

    return made


def _make_stable_decay(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, **arguments: Any
) -> LambdaLR:
    arguments.setdefault("num_decay_steps", math.ceil(DECAY * num_training_steps))
    if arguments.get("num_stable_steps") is None:  # transformers takes one of the two, and warns of both
        arguments |= {"num_stable_steps": None, "num_training_steps": num_training_steps}
    return transformers.get_wsd_schedule(optimizer, num_warmup_steps=num_warmup_steps, **arguments)


def _find_late_decay(total_steps: int, warmup_steps: int, arguments: Mapping[str, Any]) -> str | None:
    if not arguments:
        return None
    decay = arguments.get("num_decay_steps", math.ceil(DECAY * total_steps))
    planned = warmup_steps + (arguments.get("num_stable_steps") or 0) + decay
    if planned > total_steps > warmup_steps:
        return f"warmup, constant part and decay take {planned:,}"
    return None


make_constant: Factory = _factory(_make_constant)
_make_cosine = _factory(transformers.get_cosine_schedule_with_warmup)

SPECS = (
    ScheduleSpec(
        name="constant",
        label="constant",
        description="constant",
        source=SOURCE,
        factory=make_constant,
        takes_warmup=False,
        falls=False,
    ),
    ScheduleSpec(
        name="constant_with_warmup",
        label="constant with warmup",
        description="constant",
        source=SOURCE,
        factory=make_constant,
        default_warmup=DEFAULT_WARMUP,
        falls=False,
    ),
    ScheduleSpec(
        name="linear",
        label="linear decay",
        description="falls to 0 along a straight line",
        source=SOURCE,
        factory=_factory(transformers.get_linear_schedule_with_warmup),
    ),
    ScheduleSpec(
        name="polynomial",
        label="polynomial decay",
        description="falls to `lr_end`, along a straight line or with another `power`",
        source=SOURCE,
        factory=_factory(transformers.get_polynomial_decay_schedule_with_warmup),
        arguments={"lr_end": NUMBER, "power": NUMBER},
    ),
    ScheduleSpec(
        name="cosine",
        label="cosine",
        description="half a cosine to 0",
        source=COSINE_SOURCE,
        factory=_make_cosine,
        arguments={"num_cycles": NUMBER},
    ),
    ScheduleSpec(
        name="cosine_with_warmup",
        label="cosine with warmup",
        description="half a cosine to 0",
        source=COSINE_SOURCE,
        factory=_make_cosine,
        arguments={"num_cycles": NUMBER},
        default_warmup=DEFAULT_WARMUP,
    ),
    ScheduleSpec(
        name="cosine_with_restarts",
        label="cosine with restarts",
        description="half a cosine to 0, three times",
        source=COSINE_SOURCE,
        factory=_factory(transformers.get_cosine_with_hard_restarts_schedule_with_warmup, num_cycles=3),
        arguments={"num_cycles": NUMBER},
    ),
    ScheduleSpec(
        name="cosine_with_min_lr",
        label="cosine with minimum LR",
        description="half a cosine to 10% of the peak",
        source=SOURCE,
        factory=_factory(_with_floor(transformers.get_cosine_with_min_lr_schedule_with_warmup)),
        arguments={"num_cycles": NUMBER, "min_lr": NUMBER, "min_lr_rate": NUMBER},
    ),
    ScheduleSpec(
        name="cosine_warmup_with_min_lr",
        label="cosine with warmup and minimum LR",
        description="half a cosine to 10% of the peak; `warmup_lr_rate` is where the warmup begins",
        source=SOURCE,
        factory=_factory(_with_floor(transformers.get_cosine_with_min_lr_schedule_with_warmup_lr_rate)),
        arguments={"num_cycles": NUMBER, "min_lr": NUMBER, "min_lr_rate": NUMBER, "warmup_lr_rate": NUMBER},
    ),
    ScheduleSpec(
        name="inverse_sqrt",
        label="inverse square root",
        description="1 / sqrt(step), which hardly falls in a short run without warmup",
        source="Vaswani et al. 2017, https://arxiv.org/abs/1706.03762",
        factory=_factory(_make_inverse_sqrt),
        arguments={"timescale": NUMBER},
    ),
    ScheduleSpec(
        name="warmup_stable_decay",
        label="warmup-stable-decay",
        description="constant, then falls in the last 20% of the steps",
        source="Hu et al. 2024, https://arxiv.org/abs/2404.06395",
        factory=_factory(_make_stable_decay),
        arguments={
            "num_decay_steps": NUMBER,
            "num_stable_steps": NUMBER,
            "warmup_type": one_of(*SHAPES),
            "decay_type": one_of(*SHAPES),
            "min_lr_ratio": NUMBER,
            "num_cycles": NUMBER,
        },
        default_warmup=DEFAULT_WARMUP,
        find_late_part=_find_late_decay,
    ),
)
