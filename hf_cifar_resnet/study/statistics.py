"""
The statistics of a study, fixed before its runs: seeds are paired, since runs of the same seed see the same images in
the same order, so the paired t test decides, Holm-corrected over all comparisons.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np
from scipy import optimize, stats

# Differences are claimed below this p-value, after the correction.
SIGNIFICANCE = 0.05
POWER = 0.8
MAX_SEEDS = 10_000
MIN_CORRELATED = 3  # seeds; the correlation of two is always 1 or -1


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% confidence interval of a mean, by Student's t."""
    half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def accuracy_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% confidence interval of a mean accuracy, kept from 0 to 1."""
    low, high = confidence_interval(values)
    return max(0.0, low), min(1.0, high)


def pair(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    """Return the differences of `a` to `b`, {seed: score}, for the seeds that both have."""
    # Rounded, since 0.41 - 0.40 and 0.51 - 0.50 differ in their last bits, which a test would take for a deviation.
    return [round(a[seed] - b[seed], 9) for seed in a if seed in b]


def paired_p_value(differences: Sequence[float], shift: float = 0.0, alternative: str = "two-sided") -> float:
    """Return the p-value of the t test that the mean of `differences + shift` is 0."""
    if stdev(differences) == 0:
        # Seeds that agree exactly say nothing about the next seed.
        return 1.0
    # scipy warns where the values hardly differ; the test is then as exact as the figures are.
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        found: Any = stats.ttest_1samp(np.add(differences, shift), 0.0, alternative=alternative)
    return float(found.pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's (1979) corrected p-values, the lowest first: hypotheses below `SIGNIFICANCE` are rejected."""
    found: dict[str, float] = {}
    corrected = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        corrected = max(corrected, min(1.0, p * (len(p_values) - rank)))
        found[name] = corrected
    return found


def are_equivalent(differences: Sequence[float], margin: float) -> bool:
    """Return whether two one-sided tests (Schuirmann 1987) show that the mean difference is less than `margin`."""
    above = paired_p_value(differences, margin, "greater")
    return max(above, paired_p_value(differences, -margin, "less")) < SIGNIFICANCE


def correlation(a: Mapping[int, float], b: Mapping[int, float]) -> float | None:
    """Return Pearson's correlation of two variants over the seeds that both have; None if there is none."""
    seeds = [seed for seed in a if seed in b]
    x, y = [a[seed] for seed in seeds], [b[seed] for seed in seeds]
    if len(seeds) < MIN_CORRELATED or min(stdev(x), stdev(y)) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def power_of(effect: float, n: int, significance: float) -> float:
    """
    Return the power of a two-sided paired t test of `n` pairs for a mean difference of `effect` standard deviations of
    the differences.
    """
    freedom, center = n - 1, effect * math.sqrt(n)
    # The mean over the distribution of the estimated deviation; scipy's noncentral t is NaN for large effects.
    deviations = np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, freedom) / freedom)
    critical = stats.t.ppf(1 - significance / 2, freedom) * deviations
    return float(np.mean(stats.norm.sf(critical - center) + stats.norm.cdf(-critical - center)))


def smallest_effect(n: int, significance: float) -> float:
    """Return the mean difference, in standard deviations of the differences, that `n` pairs show with 80% power."""
    highest = 2 * float(stats.t.ppf(1 - significance / 2, n - 1)) + 2
    found: Any = optimize.brentq(lambda effect: power_of(effect, n, significance) - POWER, 0.0, highest)
    return float(found)


def seeds_needed(effect: float, significance: float) -> int | None:
    """Return the number of pairs that show an effect with 80% power; None above `MAX_SEEDS`."""
    sizes = range(2, MAX_SEEDS + 1)
    found = bisect_left(sizes, POWER, key=lambda n: power_of(effect, n, significance))
    return sizes[found] if found < len(sizes) else None
