"""Read the runs of a study with their results, and group them by what is compared."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import explained
from ..evaluation.scores import Scores
from ..runs.fields import Fields
from ..runs.files import RUN_JSON
from ..runs.folder import RunFolder
from ..runs.metrics import read_scores
from .plan import StudyPlan, StudyRun
from .result import RunResult, comparable_arguments

# In a study's folder: the scores of the runs of each variant as an ensemble.
ENSEMBLES_JSON = "ensembles.json"
# Arguments that do not set single runs apart where all runs of a schedule have the same value.
OF_A_SCHEDULE = ("lr_scheduler_kwargs", "warmup_steps")


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of a study, with its result."""

    run: StudyRun
    result: RunResult


@dataclass(frozen=True)
class Study:
    """
    The runs in the folder of a study.

    Attributes:
        plan: what `study.json` holds; without that file, one that was made of the single runs in the folder.
        is_planned: whether there is that file.
        finished: the finished runs, by variant and seed.
        unfinished: the others.
    """

    plan: StudyPlan
    is_planned: bool
    finished: Sequence[FinishedRun]
    unfinished: Sequence[StudyRun]

    @property
    def compared(self) -> list[FinishedRun]:
        """The finished runs that are no tuning runs."""
        return [each for each in self.finished if not each.run.tuning]

    @property
    def tuning(self) -> list[FinishedRun]:
        return [each for each in self.finished if each.run.tuning]

    @property
    def tuning_seeds(self) -> set[int]:
        """The seeds that arguments are chosen on, which are the last that were asked for."""
        if self.plan.tuning is not None:
            return set(self.plan.tuning.seeds)
        return {run.seed for run in self.plan.runs if run.tuning}


def read_study(folder: Path) -> Study:
    """
    Return the runs of a folder. A run whose folder is not there any more, or holds nothing of it, has the result that
    `study.json` keeps. A folder without that file holds single runs, which are compared by their schedules and by all
    other arguments in which they differ.

    Raises `ValueError` if a file is damaged, or if the runs cannot be compared.
    """
    plan = StudyPlan.read(folder)
    is_planned = plan is not None
    if plan is None:
        plan = StudyPlan(arguments=None, runs=_find_single_runs(folder))
    finished, unfinished = [], []
    for run in plan.runs:
        place = RunFolder(folder / run.folder)
        if place.is_finished:
            finished.append(FinishedRun(run, RunResult.read(place)))
        elif run.folder in plan.results and not place.has_begun:
            finished.append(FinishedRun(run, plan.results[run.folder]))
        else:
            unfinished.append(run)
    _check_same_data(folder, finished)
    return Study(plan, is_planned, sorted(finished, key=_rank), unfinished)


def _rank(finished: FinishedRun) -> Any:
    run = finished.run
    values = [*run.varied.values(), *(run.tuned.values() if run.tuning else ())]
    return run.variant, run.without or "", [(as_number(value), value) for value in values], run.seed


def as_number(text: str) -> float:
    """Return the number that a text names; infinity if it names none, so that it comes last."""
    try:
        return float(text)
    except ValueError:
        return math.inf


def _find_single_runs(folder: Path) -> list[StudyRun]:
    """Return the runs in a folder as those of a study, which varied the arguments in which they differ."""
    records = {path.parent.name: RunFolder(path.parent).read_record() for path in sorted(folder.glob(f"*/{RUN_JSON}"))}
    arguments = {name: comparable_arguments(record) for name, record in records.items()}
    names = list(dict.fromkeys(name for each in arguments.values() for name in each))
    texts = {
        name: {run: json.dumps(each.get(name), sort_keys=True) for run, each in arguments.items()} for name in names
    }
    schedule = {run: record.schedule for run, record in records.items()}
    differing = [
        name
        for name in names
        if len(set(texts[name].values())) > 1 and not (name in OF_A_SCHEDULE and _follows_from(texts[name], schedule))
    ]
    return [
        StudyRun(
            variant=record.schedule,
            seed=record.seed,
            varied={name: texts[name][run].strip('"') for name in differing},
            folder=run,
        )
        for run, record in records.items()
    ]


def _follows_from(texts: dict[str, str], schedules: dict[str, str]) -> bool:
    """Return whether all runs of the same schedule have the same value."""
    values = defaultdict(set)
    for run, text in texts.items():
        values[schedules[run]].add(text)
    return all(len(each) == 1 for each in values.values())


def _check_same_data(folder: Path, finished: Iterable[FinishedRun]) -> None:
    finished = list(finished)
    datasets = {each.result.setting.dataset: each.run.folder for each in finished}
    splits = {each.result.selected_on: each.run.folder for each in finished}
    for what, found in (("are of several datasets", datasets), ("chose their epochs on several splits", splits)):
        if len(found) > 1:
            listed = ", ".join(f"{name} ({run})" for name, run in found.items())
            raise ValueError(f"the runs in {folder} {what}, {listed}: compare those of one")


def group_runs(runs: Iterable[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Group runs by variant. Raises `ValueError` for two runs of one variant and seed, which are one result."""
    groups: dict[str, dict[int, FinishedRun]] = defaultdict(dict)
    for each in runs:
        other = groups[each.run.group].setdefault(each.run.seed, each)
        if other is not each:
            names = f"{other.run.folder} and {each.run.folder}"
            raise ValueError(f"{names} have the same schedule and seed: move one of them to another folder")
    return {variant: list(members.values()) for variant, members in groups.items()}


@dataclass(frozen=True)
class EnsembleScores:
    """The test scores of the models of several runs, by the mean of their probabilities."""

    runs: tuple[str, ...]
    test: Scores


def read_ensembles(folder: Path) -> list[EnsembleScores]:
    """Return the ensembles of a study. Raises `ValueError` for a damaged file."""
    path = folder / ENSEMBLES_JSON
    if not path.is_file():
        return []
    with explained(f"{path} is damaged", ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
    fields = Fields({"ensembles": content}, path)
    return [
        EnsembleScores(tuple(each.texts("runs")), read_scores(each, "test")) for each in fields.sections("ensembles")
    ]


def with_results(study: Study) -> StudyPlan:
    """Return the plan with the results of the finished runs, by which the report can be made again without them."""
    return replace(study.plan, results={each.run.folder: each.result for each in study.finished})
