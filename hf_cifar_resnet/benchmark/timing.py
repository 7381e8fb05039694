"""Rates of several ways to do the same work, taken in turns, and what can be said of their ratios."""

import math
import time

import numpy as np

# One turn lasts at least this long, so that the clock and a single interruption weigh little.
TURN_SECONDS = 0.3


def take_turns(ways, repeats, seconds=TURN_SECONDS):
    """
    Measures each way once, then all again, so that what changes on the machine meanwhile touches all of them.

    Args:
        ways (dict of callables): each does some work and returns its amount, such as a number of images.
        repeats (`int`): turns of each.
        seconds (`float`): how long a turn lasts at least.

    Returns:
        dict of lists: amounts a second, one a turn.
    """
    rates = {name: [] for name in ways}
    for work in ways.values():
        work()  # caches, lazy imports, compilation
    for turn in range(repeats):
        # Backwards every other time: nobody always comes after the same one.
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            rates[name].append(rate(ways[name], seconds))
    return rates


def rate(work, seconds):
    """Calls `work` until `seconds` have passed; the amount it did a second."""
    amount, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or not amount:
        amount += work()
    return amount / elapsed


def spread(values):
    """Median and quartiles of the turns, as a dict."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "quartiles": [float(low), float(high)], "n": len(values)}


def compare(rates, baseline):
    """The ratio of each way to the `baseline`, turn by turn: `{name: ratio(...)}`."""
    return {name: ratio(values, rates[baseline]) for name, values in rates.items() if name != baseline}


def ratio(values, others):
    """
    The median of the turns' ratios with its 95% confidence interval, from the order statistics: no distribution is
    assumed (Conover 1999, *Practical Nonparametric Statistics*, section 3.2). Below six turns it is the range.
    """
    ratios = sorted(a / b for a, b in zip(values, others, strict=True))
    n, below = len(ratios), 0
    # The chance that fewer than `below + 1` of n turns fall on one side of the true median.
    tail = 1 / 2**n
    while tail + math.comb(n, below + 1) / 2**n <= 0.025:
        below += 1
        tail += math.comb(n, below) / 2**n
    return {"median": float(np.median(ratios)), "interval": [ratios[below], ratios[n - 1 - below]], "n": n}


def table(rates, ratios_to, unit):
    """Lines of text: the spread of each way's rate, and its ratio to others; `ratios_to` as [`compare`] by name."""
    rows = [["", unit, "quartiles", *(f"ratio to {name} (95% interval)" for name in ratios_to)]]
    for name, values in rates.items():
        told = spread(values)
        low, high = told["quartiles"]
        row = [name, _number(told["median"]), f"{_number(low)} to {_number(high)}"]
        for ratios in ratios_to.values():
            found = ratios.get(name)
            row.append("1" if found is None else _interval(found["median"], *found["interval"]))
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _interval(median, low, high):
    return f"{median:.3g} ({low:.3g} to {high:.3g})"


def _number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
