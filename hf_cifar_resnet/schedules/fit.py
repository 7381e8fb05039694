"""Whether a schedule gives usable learning rates, and whether it fits a run."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from .preview import dry_run, rates_at, sample_steps
from .registry import check, get
from .scheduler import Schedule

SAMPLES = 1000  # steps of a run at which its schedule is looked at


def try_out(name: str, peak: float, warmup_steps: float, arguments: Mapping[str, Any], max_steps: int = -1) -> None:
    """
    Compute a short run. Raises `ValueError` if the arguments do not work, or give learning rates that are impossible or
    above the peak.
    """
    check(name, arguments, warmup_steps)
    total = min(max_steps, SAMPLES) if max_steps > 0 else SAMPLES
    spec = get(name)
    try:
        if spec.rule:
            spec.rule(**arguments).check_peak(peak)
        rates = rates_at(next(dry_run(name, total, peak, min(warmup_steps, total), arguments)), range(total))
        # What comes after the warmup too, however long that is.
        later = rates_at(next(dry_run(name, SAMPLES, peak, 0, arguments)), range(SAMPLES))
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"{name} does not work with lr_scheduler_kwargs {arguments}: {error}") from error
    given = f"{name} with lr_scheduler_kwargs {arguments} and warmup_steps {warmup_steps:g} has the learning rate"
    if impossible := [rate for rate in rates + later if not 0 <= rate < math.inf]:
        raise ValueError(f"{given} {impossible[0]:.3g}, which is impossible")
    if not any(rates) or not any(later):
        raise ValueError(f"{given} 0 at every step")
    if max(rates + later) > peak * (1 + 1e-6):  # rounding may lift it a little
        raise ValueError(f"{given} {max(rates + later):.3g}, above the peak {peak:.3g}")


def find_misfit(
    name: str,
    total_steps: int,
    peak: float,
    warmup_steps: float = 0,
    arguments: Mapping[str, Any] | None = None,
    evaluations: Iterable[int] = (),
    early_stopping_patience: int | None = None,
) -> str | None:
    """
    Return a sentence that says where a schedule does not fit a run, such as a warmup that is longer, or None.

    Args:
        evaluations (`Iterable[int]`): the steps after which the run is evaluated.
        All others as in [`create`] and the training arguments.
    """
    spec, arguments = get(name), arguments or {}
    scheduler = next(dry_run(name, total_steps, peak, warmup_steps, arguments))
    warmup = scheduler.warmup_steps
    steps = sorted({*sample_steps(total_steps, SAMPLES), min(warmup, total_steps - 1)})
    rates = rates_at(scheduler, steps)
    top, last = max(rates), max((index for index, rate in enumerate(rates) if rate), default=-1)
    parts = [f"its warmup takes {warmup:,}"] if warmup >= total_steps else []
    if spec.find_late_part and (late := spec.find_late_part(total_steps, warmup, arguments)):
        parts.append(late)
    if top < 0.9 * peak and (spec.reaches_peak or warmup >= total_steps):
        parts.append(f"the LR reaches at most {100 * top / peak:.2g}% of its peak")
    if arguments and spec.falls and warmup < total_steps - 1 and min(rates[rates.index(top) :]) > (1 - 1e-6) * top:
        parts.append("the LR never falls")
    if last < len(rates) - 2 and (rest := 1 - (last + 1) / len(rates)) > 0.02:
        parts.append(f"the LR is 0 for the last {rest:.0%} of them")
    if spec.rule and isinstance(scheduler, Schedule):
        idle = spec.rule(**arguments).find_misfit(scheduler, evaluations, early_stopping_patience)
        parts += [idle] if idle else []
    run = f"a run of {total_steps:,} step{'s' * (total_steps != 1)}"
    return f"{spec.name} does not fit {run}: {', '.join(parts)}" if parts else None
