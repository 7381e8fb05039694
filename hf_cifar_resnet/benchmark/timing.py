"""Rates of several ways to do the same work, measured in turns, and confidence intervals of their ratios."""

import time

import numpy as np
import torch
from scipy.stats import quantile_test

# One turn lasts at least this long, so that the clock's resolution and a single interruption matter little.
TURN_SECONDS = 0.3


def take_turns(ways, repeats, seconds=TURN_SECONDS):
    """
    Measure each way once, then all again, so that whatever else changes on the machine affects all of them.

    Each of `ways` does some work and returns its amount, such as a number of images. Return dict of lists: amounts a
    second, one a turn of at least `seconds`.
    """
    rates = {name: [] for name in ways}
    for work in ways.values():
        work()  # fills caches, imports and compiles
    for turn in range(repeats):
        # Every other turn goes backwards, so that no way always comes after the same one.
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            rates[name].append(rate(ways[name], seconds))
    return rates


def rate(work, seconds):
    """Call `work` until `seconds` have passed, and return the amount it did a second."""
    amount, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or not amount:
        amount += work()
    return amount / elapsed


def time_steps(work, steps, device):
    """Return the seconds that `work(steps)` takes until the device has done it."""
    wait_for(device)
    started = time.perf_counter()
    work(steps)
    wait_for(device)
    return time.perf_counter() - started


def wait_for(device):
    if device.type != "cpu":
        torch.accelerator.synchronize()


def spread(values):
    """Return the median and quartiles of the turns."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "quartiles": [float(low), float(high)], "n": len(values)}


def compare(rates, baseline):
    """Return the ratio of each way to the `baseline`, turn by turn: `{name: ratio(...)}`."""
    return {name: ratio(values, rates[baseline]) for name, values in rates.items() if name != baseline}


def ratio(values, others):
    """
    Return the median of the turns' ratios with its 95% confidence interval, which assumes no distribution (Conover
    1999, *Practical Nonparametric Statistics*, section 3.2). Below six turns the interval is the range.
    """
    ratios = np.divide(values, others)
    interval = quantile_test(ratios, p=0.5).confidence_interval(0.95)
    low, high = (ratios.min(), ratios.max()) if np.isnan(interval.low) else interval
    return {"median": float(np.median(ratios)), "interval": [float(low), float(high)], "n": len(ratios)}


def table(rates, ratios_to, unit):
    """Return lines with the spread of each way's rate and its ratio to others; `ratios_to` as [`compare`] by name."""
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


def _number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
