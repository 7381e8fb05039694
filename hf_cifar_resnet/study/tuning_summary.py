"""How the arguments of a study's variants were chosen, as the report tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .compare import Groups, count_points
from .plan import TuningPlan
from .read import FinishedRun, Study
from .tuning import Point, choose, find_edges, measure_sensitivity, tried_points

# The margins below the best accuracy for which the report measures the sensitivity to the LR.
SENSITIVITY_MARGINS = (0.005, 0.01)
LEARNING_RATE = "learning_rate"


@dataclass(frozen=True)
class TuningRow:
    """
    How the arguments of one variant were chosen.

    Attributes:
        chosen: a value of each argument.
        tried: the score of each point, None if it has none.
        beyond: the values that were tried beyond the grid, with the name of their argument.
        edges: the arguments whose chosen value is still at the edge of what was tried.
        sensitivities: for each margin, how many factors of ten the LR spans within it, in words.
    """

    chosen: Point
    tried: Mapping[Point, float | None]
    beyond: Sequence[str]
    edges: Sequence[str]
    sensitivities: Sequence[str]


@dataclass(frozen=True)
class TuningSummary:
    """
    How arguments were chosen.

    Attributes:
        arguments: their names.
        rows: one for each variant.
        runs: how many tuning runs are finished.
        seconds, compared_seconds: of training, of the tuning runs and of the compared ones.
        has_fresh_seeds: whether the compared runs have other seeds.
    """

    arguments: Sequence[str]
    rows: Mapping[str, TuningRow]
    runs: int
    seeds: Sequence[int]
    seconds: float
    compared_seconds: float
    has_fresh_seeds: bool

    @property
    def edges(self) -> list[str]:
        return [f"{name} ({', '.join(row.edges)})" for name, row in self.rows.items() if row.edges]

    @property
    def beyond(self) -> list[str]:
        return [f"{name} ({', '.join(row.beyond)})" for name, row in self.rows.items() if row.beyond]

    @property
    def margins(self) -> list[str]:
        return [count_points(margin) for margin in SENSITIVITY_MARGINS]


def summarize_tuning(study: Study, groups: Groups) -> TuningSummary | None:
    """Return how the arguments of these variants were chosen, or None where nothing was tuned."""
    runs = study.tuning
    if not runs:
        return None
    arguments = list(runs[0].run.tuned)
    tried = tried_points(study)
    plan = study.plan.tuning
    rows = {}
    for name in groups or tried:
        if name not in tried or all(score is None for score in tried[name].values()):
            continue
        best = choose(tried[name], name)
        edges = [f"{arguments[number]} {best[number]}" for number in find_edges(tried[name], best)]
        rows[name] = TuningRow(
            best, tried[name], _find_beyond(plan, arguments, tried[name]), edges,
            _describe_sensitivities(arguments, tried[name]),
        )  # fmt: skip
    tuning_seeds = {each.run.seed for each in runs}
    return TuningSummary(
        arguments=arguments,
        rows=rows,
        runs=len(runs),
        seeds=sorted(study.tuning_seeds),
        seconds=_train_seconds(runs),
        compared_seconds=sum(map(_train_seconds, groups.values())),
        has_fresh_seeds=not tuning_seeds.intersection(each.run.seed for group in groups.values() for each in group),
    )


def _find_beyond(plan: TuningPlan | None, arguments: Sequence[str], tried: Mapping[Point, float | None]) -> list[str]:
    if plan is None or not plan.extend_edges:
        return []
    beyond = []
    for number, name in enumerate(arguments):
        asked = plan.arguments.get(name, "").split(",")
        if plan.extend_edges.get(name):
            beyond += [
                f"{name} {value}" for value in dict.fromkeys(point[number] for point in tried) if value not in asked
            ]
    return beyond


def _describe_sensitivities(arguments: Sequence[str], tried: Mapping[Point, float | None]) -> list[str]:
    if LEARNING_RATE not in arguments:
        return []
    found = [measure_sensitivity(tried, arguments.index(LEARNING_RATE), margin) for margin in SENSITIVITY_MARGINS]
    return ["" if each is None else f"{each.decades:.2f}{' or more' if each.is_cut else ''}" for each in found]


def _train_seconds(runs: Sequence[FinishedRun]) -> float:
    return sum(each.result.train_seconds or 0 for each in runs)
