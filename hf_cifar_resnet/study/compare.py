"""Compare the test accuracies of a study's variants: differences, power and equivalence."""

import math
import warnings
from bisect import bisect_left
from statistics import mean, stdev, variance

import numpy as np
from scipy import optimize, stats

from .read import selection_split, selection_top1, test_top1, variant_name

# Differences are claimed below this p-value, after Holm's correction for the number of comparisons.
SIGNIFICANCE = 0.05
POWER = 0.8
# Differences of accuracy, 0 to 1, that the report says the needed seeds for, and within which it claims equivalence.
MARGINS = (0.005, 0.01)
MOST_SEEDS = 10_000


def compare(groups):
    """
    Return one paragraph on final test accuracy: ablations against the full recipe, or all variants against the one that
    is best on the split that epochs were selected on.

    A difference is claimed only where Welch's t-test over the seeds, with Holm's correction over the comparisons,
    supports it at 5%; an equivalence only where two one-sided tests (Schuirmann 1987) support it.
    """
    baselines, references, title = _comparisons(groups)
    scores = {name: test_top1(members) for name, members in groups.items()}
    said = [f"{title}: {name}, test top-1 {_describe(scores[name])}." for name in references]
    if not baselines:
        return said[0]
    if min(len(scores[name]) for name in [*baselines, *references]) < 2:
        return " ".join([*said, "Not every variant has two seeds or more, so no difference is claimed."])
    clear = holm({name: welch(scores[name], scores[other]) for name, other in baselines.items()})
    points = {name: 100 * (mean(scores[name]) - mean(scores[other])) for name, other in baselines.items()}
    if clear:
        listed = ", ".join(f"{name} ({points[name]:+.2f} points, p = {p:.2g})" for name, p in clear.items())
        said.append(f"The seeds support a difference for {listed}.")
    if len(clear) < len(points):
        listed = ", ".join(f"{name} ({points[name]:+.2f} points)" for name in points if name not in clear)
        said.append(f"The seeds do not support a difference for {listed}.")
    for margin in MARGINS:
        equal = [name for name, other in baselines.items() if are_equivalent(scores[name], scores[other], margin)]
        if equal:
            said.append(f"Equivalent within {100 * margin:g} points (two one-sided tests, 5%): {', '.join(equal)}.")
    return " ".join([*said, "(Welch's t-test, Holm-corrected, 5%.)"])


def report_power(groups):
    """
    Return a paragraph on what differences these seeds can show, or None without two seeds of each variant.

    The deviation is pooled over the variants, and the significance divided by the number of comparisons (Bonferroni),
    as it is for the first step of Holm's correction.
    """
    scores = [test_top1(members) for members in groups.values()]
    comparisons, least = len(_comparisons(groups)[0]), min(map(len, scores))
    if not comparisons or least < 2:
        return None
    freedom = sum(len(values) - 1 for values in scores)
    deviation = math.sqrt(sum((len(values) - 1) * variance(values) for values in scores) / freedom)
    if deviation == 0:
        return None
    significance = SIGNIFICANCE / comparisons
    smallest = 100 * deviation * smallest_effect(least, significance)
    needed = {100 * margin: seeds_needed(margin / deviation, significance) for margin in MARGINS[::-1]}
    needed = [f"{seeds or f'more than {MOST_SEEDS:,}'} seeds to show {points:g}" for points, seeds in needed.items()]
    return (
        f"Power: the deviation over seeds is {100 * deviation:.2f} points, pooled. With {least} seeds the smallest "
        f"difference that shows with 80% power (at 5% over {comparisons} comparisons) is {smallest:.2g} points, less "
        f"where both deviate less; it would take {' and '.join(needed)}."
    )


def confidence_interval(values):
    """Return the 95% confidence interval of a mean accuracy, by Student's t, kept from 0 to 1."""
    half = stats.t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return max(0.0, mean(values) - half), min(1.0, mean(values) + half)


def welch(a, b, shift=0.0, alternative="two-sided"):
    """Return the p-value of Welch's t-test of `a + shift` against `b`."""
    if stdev(a) == 0 and stdev(b) == 0:
        # Seeds that agree exactly say nothing about the next seed.
        return 1.0
    # scipy warns where the values hardly differ; the test is then as exact as the figures are.
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        return float(stats.ttest_ind(np.add(a, shift), b, equal_var=False, alternative=alternative).pvalue)


def holm(p_values):
    """Return Holm's (1979) corrected p-values of the hypotheses that are rejected."""
    rejected, corrected = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        corrected = max(corrected, min(1.0, p * (len(p_values) - rank)))
        if corrected >= SIGNIFICANCE:
            break
        rejected[name] = corrected
    return rejected


def are_equivalent(a, b, margin):
    """Return whether two one-sided tests show that the means of `a` and `b` differ by less than `margin`."""
    above = welch(a, b, margin, "greater")
    return max(above, welch(a, b, -margin, "less")) < SIGNIFICANCE


def power_of(effect, n, significance):
    """Return the power of a two-sided t-test of two groups of `n` for a difference of `effect` standard deviations."""
    freedom, centre = 2 * n - 2, effect * math.sqrt(n / 2)
    # The mean over the distribution of the estimated deviation; scipy's noncentral t is NaN for large effects.
    deviations = np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, freedom) / freedom)
    critical = stats.t.ppf(1 - significance / 2, freedom) * deviations
    return float(np.mean(stats.norm.sf(critical - centre) + stats.norm.cdf(-critical - centre)))


def smallest_effect(n, significance):
    """Return the difference, in standard deviations, that two groups of `n` show with 80% power."""
    most = 2 * stats.t.ppf(1 - significance / 2, 2 * n - 2)
    return float(optimize.brentq(lambda effect: power_of(effect, n, significance) - POWER, 0.0, most + 2))


def seeds_needed(effect, significance):
    """Return the size of two groups that show an effect with 80% power; None above `MOST_SEEDS`."""
    sizes = range(2, MOST_SEEDS + 1)
    found = bisect_left(sizes, POWER, key=lambda n: power_of(effect, n, significance))
    return sizes[found] if found < len(sizes) else None


def ablation_baselines(groups):
    """Return, for each ablation, the variant of the full recipe that it is compared with, if that was run."""
    full = {name: variant_name(members[0], ablated=False) for name, members in groups.items()}
    return {name: other for name, other in full.items() if other != name and other in groups}


def ranked(groups):
    """Return the names of the variants, the best on the split that epochs were selected on first."""
    return sorted(groups, key=lambda name: -mean(selection_top1(groups[name])))


def _comparisons(groups):
    """Return {variant: what it is compared with}, what others are compared with, and what that is."""
    names, baselines = ranked(groups), ablation_baselines(groups)
    if baselines:
        return baselines, list(dict.fromkeys(baselines.values())), "Full recipe"
    return dict.fromkeys(names[1:], names[0]), names[:1], f"Best on {selection_split(groups[names[0]][0]['metrics'])}"


def _describe(values):
    spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{spread}% (n = {len(values)})"
