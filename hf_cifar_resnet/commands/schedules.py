"""`schedules`: list every learning-rate schedule, and draw them for given settings, without training."""

import math
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

from .. import schedules
from ..checkpoints.outputs import check_output
from ..reporting.plots import PICTURE, atomic_picture, plot_schedules
from ..training.arguments import json_object
from .line_parser import LineParser, positive

MAX_STEPS = 10_000_000


def main(argv: list[str], prog: str | None = None) -> None:
    """Write a PNG and an SVG with one panel for each schedule, or print what there is to know about each."""
    options = _parse(argv, prog)
    arguments = json_object("lr_scheduler_kwargs", options.lr_scheduler_kwargs)
    curves = _compute_curves(options, arguments)
    if options.list:
        for spec in map(schedules.get, options.names):
            print(_describe(spec))
        return
    check_output("--output", options.output, PICTURE, ending=".png")
    check_output("--output", Path(options.output).with_suffix(".svg"), PICTURE)
    with atomic_picture(options.output) as file:
        plot_schedules(curves, file)
    print(f"Drawn: {options.output} and {Path(options.output).with_suffix('.svg')}")


def _parse(argv: list[str], prog: str | None) -> Namespace:
    parser = LineParser(prog=prog, description="List or draw learning-rate schedules, without training.")
    parser.add_argument("names", nargs="*", default=schedules.names(), help="schedules (default: all)")
    parser.add_argument("--list", action="store_true", help="print them with their arguments, and draw nothing")
    parser.add_argument(
        "--steps", type=partial(positive, limit=MAX_STEPS), default=1000, help="optimizer steps in the run"
    )
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="the peak")
    parser.add_argument(
        "--warmup_steps", type=float, default=0.0, help="steps, or below 1 a share of them, for schedules with warmup"
    )
    parser.add_argument("--lr_scheduler_kwargs", default=None, help="JSON object, for schedules that take these names")
    parser.add_argument("--output", default="schedules.png", help="PNG to write, with an SVG beside it")
    options = parser.parse_args(argv)
    if not 0 < options.learning_rate < math.inf or not 0 <= options.warmup_steps < math.inf:
        raise ValueError("learning_rate must be above 0, and warmup_steps not negative")
    return options


def _compute_curves(options: Namespace, arguments: dict[str, Any]) -> dict[str, tuple[list[int], list[float]]]:
    """Return the title of each panel, with steps and the learning rate at each. Each schedule gets what it takes."""
    chosen = [schedules.get(name) for name in options.names]
    if len(chosen) == 1:
        schedules.check(chosen[0].name, arguments)
    if unknown := sorted(set(arguments).difference(*(spec.arguments for spec in chosen))):
        names = ", ".join(options.names)
        none = "no schedule takes" if options.names == schedules.names() else f"none of {names} takes"
        raise ValueError(f"lr_scheduler_kwargs has {', '.join(unknown)}, which {none}; --list prints what each takes")
    curves = {}
    for spec in chosen:
        taken = {name: value for name, value in arguments.items() if name in spec.arguments}
        warmup = options.warmup_steps if spec.takes_warmup else 0.0
        schedules.try_out(spec.name, options.learning_rate, warmup, taken)
        curves[spec.name] = schedules.preview_rates(spec.name, options.steps, options.learning_rate, warmup, taken)
    return curves


def _describe(spec: schedules.ScheduleSpec) -> str:
    return "\n".join(
        [
            f"{spec.name} ({spec.label})",
            f"  learning rate: {_without_backticks(spec.description)}",
            f"  warmup: {_without_backticks(spec.describe_warmup())}",
            f"  lr_scheduler_kwargs: {', '.join(spec.arguments) or 'none'}",
            f"  source: {spec.source}",
        ]
    )


def _without_backticks(markdown: str) -> str:
    return markdown.replace("`", "")
