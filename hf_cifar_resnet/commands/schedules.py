"""`schedules`: draw the learning rate of every schedule for given settings, without training."""

import math
from functools import partial

import numpy as np

from ..checkpoints.outputs import check_output
from ..documents import atomic_write
from ..errors import UserError, explained
from ..reporting.plots import PICTURE, plot_schedules
from ..training import schedules
from ..training.arguments import json_object
from .line_parser import LineParser, positive

# How many evaluations a drawn schedule has; none improves on the first.
EVALUATIONS = 50
MOST_STEPS, MOST_POINTS = 10_000_000, 2_000


def main(argv, prog=None):
    """Write a PNG with one panel for each schedule."""
    parser = LineParser(prog=prog, description="Draw learning-rate schedules, without training.")
    parser.add_argument("names", nargs="*", default=schedules.SCHEDULES, help="schedules (default: all)")
    steps = partial(positive, limit=MOST_STEPS)
    parser.add_argument("--steps", type=steps, default=1000, help="optimizer steps in the run")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="the peak")
    parser.add_argument("--warmup_steps", type=float, default=0.0,
                        help="steps, or below 1 a share of them, for schedules with warmup")  # fmt: skip
    parser.add_argument("--lr_scheduler_kwargs", default=None, help="JSON object, for schedules that take these names")
    parser.add_argument("--output", default="schedules.png", help="PNG to write")
    options = parser.parse_args(argv)
    if not 0 < options.learning_rate < math.inf or not 0 <= options.warmup_steps < math.inf:
        raise UserError("--learning_rate must be above 0, and --warmup_steps not negative")
    check_output("--output", options.output, PICTURE, ending=".png")
    with explained("", ValueError):
        kwargs = json_object("--lr_scheduler_kwargs", options.lr_scheduler_kwargs)
        curves = {name: _curve(name, options, kwargs) for name in options.names}
    with atomic_write(options.output) as file:
        plot_schedules(curves, file)
    print(f"Drawn: {options.output}")


def _curve(name, options, kwargs):
    """Return steps and the learning rate of each. Raises `ValueError` for a schedule or arguments that do not exist."""
    schedules.check(name, {})
    accepted = schedules.accepted_arguments(name)
    kwargs = {key: value for key, value in kwargs.items() if key in accepted}
    warmup = 0.0 if name in schedules.WITHOUT_WARMUP else options.warmup_steps
    schedules.try_out(name, options.learning_rate, warmup, kwargs)
    rules, every = schedules.callbacks_for(name, kwargs), max(1, options.steps // EVALUATIONS)
    scheduler = next(schedules.dry_run(name, options.steps, options.learning_rate, warmup, kwargs))
    steps = np.unique(np.linspace(0, options.steps - 1, MOST_POINTS).round().astype(int)).tolist()
    rates, evaluated = [], 0
    for step in steps:
        while rules and evaluated + every <= step:
            evaluated += every
            if evaluated >= scheduler.warmup_steps:
                rules[0].apply(scheduler, 1.0, greater_is_better=False)
        rates += schedules.rates_at(scheduler, [step])
    return steps, rates
