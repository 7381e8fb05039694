"""Compare the test accuracies of a study's variants: differences, power and equivalence, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev, variance

from .read import FinishedRun
from .statistics import (
    MAX_SEEDS,
    MIN_CORRELATED,
    SIGNIFICANCE,
    are_equivalent,
    confidence_interval,
    correlation,
    holm,
    pair,
    paired_p_value,
    seeds_needed,
    smallest_effect,
)

# Differences of accuracy, 0 to 1, that the report says the needed seeds for, and within which it claims equivalence.
MARGINS = (0.005, 0.01)
# Up to this correlation over seeds, either way, the deviation of differences is within 5% of that without any.
LOW_CORRELATION = 0.1

Groups = Mapping[str, Sequence[FinishedRun]]  # the runs of each variant, by what is compared


@dataclass(frozen=True)
class Comparisons:
    """
    Which variants are compared.

    Attributes:
        baselines: {variant: the one that it is compared with}.
        references: those that others are compared with.
        title: what the references are.
    """

    baselines: Mapping[str, str]
    references: Sequence[str]
    title: str


def find_comparisons(groups: Groups) -> Comparisons:
    """
    Return the comparisons: ablations with the full recipe, or all variants with the one that is best on the split that
    epochs were selected on.
    """
    names, baselines = rank(groups), ablation_baselines(groups)
    if baselines:
        return Comparisons(baselines, list(dict.fromkeys(baselines.values())), "Full recipe")
    if selection_score(groups[names[0]]) is None:
        return Comparisons(dict.fromkeys(names[1:], names[0]), names[:1], "First (nothing was evaluated to choose by)")
    split = groups[names[0]][0].result.selection_split
    return Comparisons(dict.fromkeys(names[1:], names[0]), names[:1], f"Best on {split}")


def test_scores(runs: Sequence[FinishedRun]) -> dict[int, float]:
    """Return the test top-1 accuracy, 0 to 1, of each seed of a variant."""
    return {each.run.seed: each.result.test.top1 for each in runs}


def selection_score(runs: Sequence[FinishedRun]) -> float | None:
    """Return the mean top-1 accuracy on the split that epochs were selected on, or None if a run was not evaluated."""
    scores = [each.result.selection_top1 for each in runs]
    known = [score for score in scores if score is not None]
    return mean(known) if known and len(known) == len(scores) else None


def rank(groups: Groups) -> list[str]:
    """Return the variants, the best on the split that epochs were selected on first, those without scores last."""

    def place(name: str) -> tuple[bool, float]:
        score = selection_score(groups[name])
        return score is None, -(score or 0.0)

    return sorted(groups, key=place)


def ablation_baselines(groups: Groups) -> dict[str, str]:
    """Return, for each ablation, the variant of the full recipe that it is compared with, if that was run."""
    full = {name: runs[0].run.baseline for name, runs in groups.items()}
    return {name: other for name, other in full.items() if other != name and other in groups}


def compare(groups: Groups) -> str:
    """
    Return one paragraph on final test accuracy.

    A difference is claimed only where the paired t test over the seeds that both variants have, with Holm's correction
    over the comparisons, supports it at 5%; an equivalence only where two one-sided tests (Schuirmann 1987) support it.
    """
    comparisons = find_comparisons(groups)
    scores = {name: test_scores(runs) for name, runs in groups.items()}
    sentences = [
        f"{comparisons.title}: {name}, test top-1 {_describe(scores[name])}." for name in comparisons.references
    ]
    if not comparisons.baselines:
        return sentences[0]
    pairs = {name: pair(scores[name], scores[other]) for name, other in comparisons.baselines.items()}
    if few := [name for name, differences in pairs.items() if len(differences) < 2]:
        sentences.append(f"No difference is claimed without two shared seeds or more: {', '.join(few)}.")
        pairs = {name: differences for name, differences in pairs.items() if name not in few}
    if not pairs:
        return " ".join(sentences)
    corrected = holm({name: paired_p_value(differences) for name, differences in pairs.items()})
    for is_clear, does in ((True, "support"), (False, "do not support")):
        listed = [
            f"{name} ({100 * mean(pairs[name]):+.2f} points, p = {p:.2g})"
            for name, p in corrected.items()
            if (p < SIGNIFICANCE) == is_clear
        ]
        if listed:
            sentences.append(f"The seeds {does} a difference for {', '.join(listed)}.")
    for margin in MARGINS:
        equal = [name for name, differences in pairs.items() if are_equivalent(differences, margin)]
        if equal:
            sentences.append(f"Equivalent within {count_points(margin)} (two one-sided tests, 5%): {', '.join(equal)}.")
    return " ".join([*sentences, "(Paired t test over seeds, Holm-corrected, 5%.)"])


def count_points(difference: float) -> str:
    """Return a difference of accuracies, 0 to 1, in points."""
    points = f"{100 * difference:g}"
    return f"{points} point{'' if points == '1' else 's'}"


def report_power(groups: Groups) -> str | None:
    """
    Return a paragraph on what differences these seeds can show, and on whether pairing them helps, or None without a
    comparison that shares two seeds.

    The deviation of the differences is pooled over the comparisons, and the significance divided by their number
    (Bonferroni), as it is for the first step of Holm's correction.
    """
    baselines = find_comparisons(groups).baselines
    scores = {name: test_scores(runs) for name, runs in groups.items()}
    every = [pair(scores[name], scores[other]) for name, other in baselines.items()]
    pairs = [differences for differences in every if len(differences) > 1]
    if not pairs:
        return None
    freedom = sum(len(differences) - 1 for differences in pairs)
    deviation = math.sqrt(sum((len(each) - 1) * variance(each) for each in pairs) / freedom)
    if deviation == 0:
        return None
    n, significance = min(map(len, pairs)), SIGNIFICANCE / len(pairs)
    smallest = 100 * deviation * smallest_effect(n, significance)
    counts = {100 * margin: seeds_needed(margin / deviation, significance) for margin in MARGINS[::-1]}
    needed = [f"{seeds or f'more than {MAX_SEEDS:,}'} seeds to show {points:g}" for points, seeds in counts.items()]
    comparisons = "1 comparison" if len(pairs) == 1 else f"{len(pairs)} comparisons"
    return (
        f"Power: paired by seed, differences deviate by {100 * deviation:.2f} points, pooled. With {n} seeds the "
        f"smallest difference that shows with 80% power (at 5% over {comparisons}) is {smallest:.2g} "
        f"points, less where they deviate less; it would take {' and '.join(needed)}."
        f"{_report_correlation(scores, baselines, n)}"
    )


def difference_table(groups: Groups) -> list[list[str]]:
    """
    Return the rows of a table of all pairs: the mean difference of test top-1 in points, row less column, over the
    seeds that both have, with its 95% confidence interval unless they agree exactly. It has no rows without a pair that
    shares two seeds.
    """
    names = rank(groups)
    scores = {name: test_scores(groups[name]) for name in names}
    rows = []
    for place, name in enumerate(names[1:], 1):
        cells = [_describe_difference(pair(scores[name], scores[other])) for other in names[:place]]
        rows.append([name, *cells, *[""] * (len(names) - 1 - place)])
    if not any(cell for row in rows for cell in row[1:]):
        return []
    return [["", *names[:-1]], ["---"] * len(names), *rows]


def _describe_difference(differences: Sequence[float]) -> str:
    if len(differences) < 2:
        return ""
    if stdev(differences) == 0:  # which says nothing about the next seed
        return f"{100 * mean(differences):+.2f}"
    low, high = confidence_interval(differences)
    return f"{100 * mean(differences):+.2f} ({100 * low:.2f} to {100 * high:.2f})"


def _report_correlation(
    scores: Mapping[str, Mapping[int, float]], baselines: Mapping[str, str], fewest_seeds: int
) -> str:
    found = [correlation(scores[name], scores[other]) for name, other in baselines.items()]
    known = [each for each in found if each is not None]
    if not known:
        if fewest_seeds >= MIN_CORRELATED:  # and those of a variant agree exactly
            return ""
        return f" The correlation over seeds needs {MIN_CORRELATED} seeds, so whether pairing helps is open."
    listed = f"{mean(known):.2f} on average" + (f" ({min(known):.2f} to {max(known):.2f})" if len(known) > 1 else "")
    if abs(mean(known)) <= LOW_CORRELATION:
        effect = "hardly narrows the differences here"
    else:
        effect = "narrows the differences" if mean(known) > 0 else "widens the differences here"
    return f" The correlation over seeds is {listed}, so pairing {effect}."


def _describe(scores: Mapping[int, float]) -> str:
    values = list(scores.values())
    spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{spread}% (n = {len(values)})"
