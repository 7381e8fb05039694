"""Choose arguments, such as the peak LR, for each variant on validation, before the compared runs are trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from ..errors import explained
from ..runs.arguments import RunArguments, Value
from ..training.arguments import resolve_elsewhere
from .plan import PlannedRun, StudyPlan, TuningPlan, check_runs, plan_runs, update_plan
from .read import Study, as_number, read_study
from .variant import CommonArguments, Parse, Variant, describe

if TYPE_CHECKING:
    import optuna

Point = tuple[str, ...]  # a value of each tuned argument, as a text
# Arguments that are a share of the run below 1, and a number from 1 on.
SHARES = ("warmup_steps", "mixing_stop_epoch")


@dataclass(frozen=True)
class Dimension:
    """
    An argument to choose, which is a grid or a range.

    Attributes:
        text: what was asked for, as it was typed.
        values: those of a grid, as they were typed.
        low, high: the ends of a range.
        is_log: whether a range is searched on a logarithmic scale.
    """

    name: str
    text: str
    values: Sequence[str] = ()
    low: float = math.nan
    high: float = math.nan
    is_log: bool = False

    @property
    def is_range(self) -> bool:
        return not self.values

    def suggest(self, trial: optuna.Trial) -> str:
        """Return the value of an Optuna trial, as a text."""
        if self.is_range:
            return f"{trial.suggest_float(self.name, self.low, self.high, log=self.is_log):.3g}"
        return trial.suggest_categorical(self.name, list(self.values))

    def ladder(self, beyond: int) -> list[str]:
        """
        Return the values of a grid of numbers by rising size, with so many more beyond either end, each by the factor
        that lies between two values of the grid (their geometric mean); of other grids, the values alone.
        """
        numbers = sorted(self.values, key=as_number)
        first, last = as_number(numbers[0]), as_number(numbers[-1])
        if len(numbers) < 2 or not 0 < first < last < math.inf:
            return numbers
        ratio = (last / first) ** (1 / (len(numbers) - 1))
        below = [write_like(numbers[0], first / ratio**step) for step in range(beyond, 0, -1)]
        above = [write_like(numbers[-1], last * ratio**step) for step in range(1, beyond + 1)]
        return [*below, *numbers, *above]


def write_like(example: str, value: float) -> str:
    """
    Write a number with three digits, as a power of ten if the example is one: 3.16e-2 like 1e-2, 5 like 0.5. A whole
    one is written in full if the example is one: 1024 like 512.
    """
    if example.isdecimal() and math.isclose(value, round(value)):
        return str(round(value))
    if "e" not in example.lower():
        return f"{value:.3g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def parse_dimension(text: str) -> Dimension:
    """Parse `NAME=LOW:HIGH`, `NAME=LOW:HIGH:log` or `NAME=A,B,C`. Raises `ValueError` if it is none of them."""
    name, _, values = text.partition("=")
    name = name.lstrip("-").replace("-", "_")
    wrong = ValueError(f"tune {text}: write it as NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B")
    if not name or not values:
        raise wrong
    if ":" not in values:
        if not all(values.split(",")):
            raise wrong
        return Dimension(name, values, values.split(","))
    low, high, *scale = values.split(":")
    try:
        ends = float(low), float(high)
    except ValueError:
        raise wrong from None
    if scale not in ([], ["log"]) or not -math.inf < ends[0] < ends[1] < math.inf or (scale and ends[0] <= 0):
        raise wrong
    return Dimension(name, values, (), *ends, is_log=bool(scale))


@dataclass(frozen=True)
class Tuning:
    """
    How arguments are chosen.

    Attributes:
        dimensions: the arguments.
        seeds: of the tuning runs.
        trials: points to try, where one of the dimensions is a range.
        extend_edges: {argument: how many values may be tried beyond either end of its grid}.
        parse: parses the text of an argument's value.
    """

    dimensions: Sequence[Dimension]
    seeds: Sequence[int]
    parse: Parse
    trials: int = 10
    extend_edges: Mapping[str, int] | None = None

    @property
    def names(self) -> list[str]:
        return [dimension.name for dimension in self.dimensions]

    @property
    def has_range(self) -> bool:
        return any(dimension.is_range for dimension in self.dimensions)

    @property
    def plan(self) -> TuningPlan:
        asked = {dimension.name: dimension.text for dimension in self.dimensions}
        return TuningPlan(asked, list(self.seeds), dict(self.extend_edges or {}))

    def values(self, points: Sequence[Point]) -> dict[tuple[str, str], Value]:
        """Return {(argument, text): value} for all texts in these points."""
        return {
            (name, text): self.parse(name, text)
            for point in points
            for name, text in zip(self.names, point, strict=True)
        }


def check_tuning(tuning: Tuning, variants: Sequence[Variant], arguments: RunArguments, seeds: Sequence[int]) -> None:
    """
    Raise `ValueError` where there is nothing to choose on, or the compared runs would depend on the choice.
    `arguments` are those of one of the runs.
    """
    resolved = resolve_elsewhere(arguments)
    if resolved.data.eval_split == "none":
        raise ValueError("tune chooses by evaluations, and eval_split none makes none: tune on validation first")
    if resolved.training.eval_strategy == "no":
        raise ValueError("tune chooses by evaluations, and eval_strategy no makes none: leave one out")
    if shared := sorted(set(tuning.seeds) & set(seeds)):
        raise ValueError(f"tuning_seeds and seeds must differ, both have {shared[0]}: compare on fresh seeds")
    if len(set(tuning.seeds)) < len(tuning.seeds):
        raise ValueError("tuning_seeds has a seed twice: give each once")
    for name in tuning.names:
        if tuning.names.count(name) > 1:
            raise ValueError(f"tune {name} is given twice")
        if any(name in variant.arguments for variant in variants):
            raise ValueError(f"tune {name} is varied, ablated or an argument of a variant too: choose one")
    for name in tuning.extend_edges or {}:
        if name not in tuning.names:
            raise ValueError(f"extend_edges {name} is not among what is tuned: {', '.join(tuning.names)}")
    for dimension in tuning.dimensions:
        if (tuning.extend_edges or {}).get(dimension.name) and dimension.is_range:
            raise ValueError(f"extend_edges is for grids, and {dimension.name} is a range: widen it")


def tune(
    study: Path,
    common: CommonArguments,
    variants: Sequence[Variant],
    tuning: Tuning,
    plan: StudyPlan,
    execute: Callable[[Sequence[PlannedRun]], Any],
    trained_here: bool = True,
) -> dict[str, dict[str, str]]:
    """
    Train the tuning runs, and return the chosen values of each variant, {what is compared: {argument: text}}.

    A grid is one round of all combinations of its values. If the first or the last value of one wins, more are tried
    beyond it, as far as `extend_edges` allows. Ranges are searched by Optuna's TPE in rounds of one point of each
    variant. A study that is started again repeats all rounds, whose finished runs are kept. A point with a run that
    failed, such as a diverged one, is not chosen. Raises `ValueError` if nothing is left to choose from.

    Args:
        plan: that of the study, to which the runs are added.
        execute: trains the runs that it gets, except those that are finished.
        trained_here: whether this machine trains them.
    """
    by_group = {describe(each.name, each.varied, each.without): each for each in variants}

    def plan_points(points: Mapping[str, Sequence[Point]], seeds: Sequence[int]) -> list[PlannedRun]:
        # Seed by seed, so that all points are compared on one seed before the next.
        return [
            run
            for seed in seeds
            for group, variant in by_group.items()
            for point in points.get(group, ())
            for run in plan_runs(
                study, common, [variant], [seed], tuned={group: dict(zip(tuning.names, point, strict=True))},
                values=tuning.values([point]), tuning=True,
            )
        ]  # fmt: skip

    def train(points: Mapping[str, Sequence[Point]]) -> None:
        runs = plan_points(points, tuning.seeds)
        check_runs(runs, trained_here)
        update_plan(study, replace(plan, runs=[run.run for run in runs]))
        execute(runs)

    if tuning.has_range:
        _search(study, by_group, tuning, train)
    else:
        grid = list(itertools.product(*(dimension.values for dimension in tuning.dimensions)))
        # A value beyond an edge that cannot be trained would end the study after its grid was.
        for what, point in points_beyond(tuning):
            with explained(f"extend_edges would try {what}", ValueError):
                check_runs(plan_points(dict.fromkeys(by_group, [point]), tuning.seeds[:1]), trained_here)
        points: Mapping[str, Sequence[Point]] = dict.fromkeys(by_group, grid)
        # Those that study.json has beyond are not known to have been tried: the study may have been killed before.
        visited: dict[str, set[Point]] = {group: set() for group in by_group}
        while points:
            train(points)
            for group, tried_now in points.items():
                visited[group].update(tried_now)
            points = _next_points(study, visited, tuning)
    tried = read_tried(study)
    return {group: dict(zip(tuning.names, choose(tried.get(group, {}), group), strict=True)) for group in by_group}


def points_beyond(tuning: Tuning) -> Iterator[tuple[str, Point]]:
    """
    Yield each value that `extend_edges` may try beyond a grid, in words, and in a point with the first values of all
    others. Raises `ValueError` where one would mean something else than the values of the grid.
    """
    for number, dimension in enumerate(tuning.dimensions):
        asked = [*map(as_number, dimension.values)]
        for text in dimension.ladder(_beyond(tuning, dimension)):
            if text in dimension.values:
                continue
            if dimension.name in SHARES and (as_number(text) >= 1 > max(asked) or as_number(text) < 1 <= min(asked)):
                raise ValueError(
                    f"extend_edges would try {dimension.name} {text}, but below 1 it is a share of the run, and from "
                    f"1 on it is none: give {dimension.name}=0"
                )
            point = tuple(text if i == number else each.values[0] for i, each in enumerate(tuning.dimensions))
            yield f"{dimension.name} {text}", point


def _search(
    study: Path, groups: Mapping[str, Variant], tuning: Tuning, train: Callable[[Mapping[str, Sequence[Point]]], None]
) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searches = {
        group: optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0)) for group in groups
    }
    for _ in range(tuning.trials):
        trials = {group: search.ask() for group, search in searches.items()}
        points = {group: tuple(each.suggest(trial) for each in tuning.dimensions) for group, trial in trials.items()}
        train({group: [point] for group, point in points.items()})
        tried = read_tried(study)
        for group, trial in trials.items():
            score = tried.get(group, {}).get(points[group])
            if score is None:  # such as a run that diverged
                searches[group].tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                searches[group].tell(trial, score)


def _beyond(tuning: Tuning, dimension: Dimension) -> int:
    return (tuning.extend_edges or {}).get(dimension.name, 0)


def _next_points(study: Path, visited: Mapping[str, Collection[Point]], tuning: Tuning) -> dict[str, list[Point]]:
    """Return the next point beyond an edge of those that were visited, for each variant that has one."""
    tried, extensions = read_tried(study), {}
    for group, points in visited.items():
        scores = {point: score for point, score in tried.get(group, {}).items() if point in points}
        if all(score is None for score in scores.values()):
            continue
        point = next_beyond_edge(scores, choose(scores, group), tuning)
        if point is not None:
            extensions[group] = [point]
    return extensions


def next_beyond_edge(scores: Mapping[Point, float | None], best: Point, tuning: Tuning) -> Point | None:
    """
    Return the next point to try, or None. The values of one argument after the other are looked at, with those of the
    others as in the best point: if the best is the highest or lowest that was tried, the next one follows, in the grid
    or beyond it.
    """
    for number, dimension in enumerate(tuning.dimensions):
        ladder = dimension.ladder(_beyond(tuning, dimension))
        if not _beyond(tuning, dimension) or best[number] not in ladder:
            continue
        line = [point for point in scores if all(point[i] == best[i] for i in range(len(best)) if i != number)]
        places = [ladder.index(point[number]) for point in line if point[number] in ladder]
        own = ladder.index(best[number])
        for is_edge, place in ((own == max(places), own + 1), (own == min(places), own - 1)):
            if is_edge and 0 <= place < len(ladder):
                return (*best[:number], ladder[place], *best[number + 1 :])
    return None


def read_tried(study: Path) -> dict[str, dict[Point, float | None]]:
    """Return [`tried_points`] of the runs in a study's folder."""
    return tried_points(read_study(study))


def tried_points(study: Study) -> dict[str, dict[Point, float | None]]:
    """
    Return {what is compared: {point: score}} of the tuning runs, in the order of their values. The score is the mean
    top-1 accuracy over the tuning seeds on the split that epochs were selected on, None if a run is not finished or was
    not evaluated. Points of an earlier grid without a run of each of these seeds are left out: a mean over other seeds
    would be compared with theirs.
    """
    scores: dict[str, dict[Point, dict[int, float | None]]] = {}
    for run, score in [
        *((each.run, each.result.selection_top1) for each in study.tuning),
        *((run, None) for run in study.unfinished if run.tuning),
    ]:
        scores.setdefault(run.group, {}).setdefault(tuple(run.tuned.values()), {})[run.seed] = score
    seeds = study.tuning_seeds
    tried = {}
    for group, points in scores.items():
        ordered = sorted(points, key=lambda point: [(as_number(text), text) for text in point])
        tried[group] = {
            point: _mean([points[point][seed] for seed in seeds]) for point in ordered if points[point].keys() >= seeds
        }
    return tried


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return mean(known) if len(known) == len(scores) else None


def choose(scores: Mapping[Point, float | None], variant: str) -> Point:
    """Return the point with the highest score, the first of several. Raises `ValueError` if no point has one."""
    known = {point: score for point, score in scores.items() if score is not None}
    if not known:
        raise ValueError(f"no tuning run of {variant} finished with an evaluation, so nothing can be chosen for it")
    return max(known, key=lambda point: known[point])


def find_edges(scores: Mapping[Point, float | None], best: Point) -> list[int]:
    """
    Return the positions of the arguments whose best value is the lowest or the highest of those that were tried with
    the same values of the others.
    """
    edges = []
    for number, text in enumerate(best):
        same = [point for point in scores if all(point[i] == best[i] for i in range(len(best)) if i != number)]
        values = sorted({as_number(point[number]) for point in same})
        if len(values) > 1 and values[-1] < math.inf and as_number(text) in (values[0], values[-1]):
            edges.append(number)
    return edges


@dataclass(frozen=True)
class Sensitivity:
    """How many factors of ten the values of an argument span whose score is within a margin of the best one."""

    decades: float
    is_cut: bool  # by the lowest or the highest value that was tried, so that it may be more


def measure_sensitivity(scores: Mapping[Point, float | None], number: int, margin: float) -> Sensitivity | None:
    """
    Return the sensitivity to an argument, whose position is `number`. For each of its values the best score over the
    other arguments counts, and scores lie on straight lines between neighbors, over the logarithm. None for fewer than
    two positive values.
    """
    best_at: dict[float, float] = {}
    for point, score in scores.items():
        value = as_number(point[number])
        if score is not None and 0 < value < math.inf:
            best_at[math.log10(value)] = max(score, best_at.get(math.log10(value), -math.inf))
    if len(best_at) < 2:
        return None
    places = sorted(best_at)
    top = max(range(len(places)), key=lambda i: best_at[places[i]])
    threshold = best_at[places[top]] - margin
    ends, is_cut = [], False
    for step in (-1, 1):
        i = top
        while 0 <= i + step < len(places) and best_at[places[i + step]] >= threshold:
            i += step
        if 0 <= i + step < len(places):
            inside, outside = best_at[places[i]], best_at[places[i + step]]
            share = (inside - threshold) / (inside - outside)
            ends.append(places[i] + share * (places[i + step] - places[i]))
        else:
            ends.append(places[i])
            is_cut = True
    return Sensitivity(ends[1] - ends[0], is_cut)
