"""Rates of several candidates for the same work, measured in turns, and confidence intervals of their ratios."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import quantile_test

# One turn lasts at least this long, so that the clock's resolution and a single interruption matter little.
TURN_SECONDS = 0.3


Work = Callable[[], int]
"""Does some work and returns its amount, such as a number of images."""


def measure_in_turns(
    candidates: Mapping[str, Work], repeats: int, seconds: float = TURN_SECONDS
) -> dict[str, list[float]]:
    """
    Measure each candidate once, then all again, so that whatever else changes on the machine affects all of them.

    Return the amounts a second of each, one a turn of at least `seconds`.
    """
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for work in candidates.values():
        work()  # fills caches, imports and compiles
    for turn in range(repeats):
        # Every other turn goes backwards, so that no candidate always comes after the same one.
        for name in list(candidates) if turn % 2 == 0 else reversed(list(candidates)):
            rates[name].append(rate(candidates[name], seconds))
    return rates


def rate(work: Work, seconds: float) -> float:
    """Call `work` until `seconds` have passed, and return the amount it did a second."""
    amount, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or not amount:
        amount += work()
    return amount / elapsed


def time_steps(work: Callable[[int], object], steps: int, device: torch.device) -> float:
    """Return the seconds that `work(steps)` takes until the device has done it."""
    wait_for(device)
    started = time.perf_counter()
    work(steps)
    wait_for(device)
    return time.perf_counter() - started


def wait_for(device: torch.device) -> None:
    """Wait until a device has done its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the median and quartiles of the turns."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "quartiles": [float(low), float(high)], "n": len(values)}


def compare(rates: Mapping[str, Sequence[float]], baseline: str) -> dict[str, dict[str, Any]]:
    """Return the ratio of each candidate to the `baseline`, turn by turn: `{name: ratio(...)}`."""
    return {name: ratio(values, rates[baseline]) for name, values in rates.items() if name != baseline}


def ratio(values: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """
    Return the median of the turns' ratios with its 95% confidence interval, which assumes no distribution (Conover
    1999, *Practical Nonparametric Statistics*, section 3.2). Below six turns the interval is the range.
    """
    ratios = np.divide(values, others)
    interval = quantile_test(ratios, p=0.5).confidence_interval(0.95)
    low, high = (ratios.min(), ratios.max()) if np.isnan(interval.low) else interval
    return {"median": float(np.median(ratios)), "interval": [float(low), float(high)], "n": len(ratios)}


def table(
    rates: Mapping[str, Sequence[float]], ratios_to: Mapping[str, Mapping[str, dict[str, Any]]], unit: str
) -> str:
    """Return lines with the spread of each candidate's rate and its ratio to others, [`compare`] by name."""
    rows = [["", unit, "quartiles", *(f"ratio to {name} (95% interval)" for name in ratios_to)]]
    for name, values in rates.items():
        figures = spread(values)
        row = [name, _number(figures["median"]), " to ".join(map(_number, figures["quartiles"]))]
        for ratios in ratios_to.values():
            found = ratios.get(name)
            row.append("{:.3g} ({:.3g} to {:.3g})".format(found["median"], *found["interval"]) if found else "1")
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
