"""The plan of a study (`study.json`): its runs, and what the report needs of those that are finished."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..documents import write_text
from ..errors import explained
from ..runs.arguments import RunArguments, comparable
from ..runs.fields import Fields
from ..runs.files import RUN_JSON, STUDY_JSON
from ..runs.folder import RunFolder
from ..training.arguments import OF_THE_MACHINE, resolve, resolve_elsewhere
from .result import RunResult
from .variant import CommonArguments, NamedArguments, Variant, describe

MAX_SIZE = 2**30  # bytes of `study.json`, which has the curves of all runs: 100 that log 10,000 times have 70 MB


@dataclass(frozen=True)
class StudyRun:
    """
    Which run of a study it is.

    Attributes:
        variant: the name of its schedule or variant.
        varied, tuned: the values of the arguments that were varied, and of those that were chosen on validation, as
            they were typed.
        without: the part of the recipe that is left out, in an ablation.
        tuning: whether it only serves the choice of an argument.
        folder: its name, which follows from all others, except of single runs that became a study later.
    """

    variant: str
    seed: int
    varied: Mapping[str, str] = field(default_factory=dict)
    without: str | None = None
    tuned: Mapping[str, str] = field(default_factory=dict)
    tuning: bool = False
    folder: str = ""

    def __post_init__(self) -> None:
        if not self.folder:
            object.__setattr__(self, "folder", self._name())

    def _name(self) -> str:
        words = [self.variant]
        if self.without:
            words += ["without", self.without]
        words += [f"{name}={value}" for name, value in {**self.varied, **self.tuned}.items()]
        if self.tuning:
            words.append("tuning")
        words.append(f"seed{self.seed}")
        return "-".join(words).replace(os.sep, "_")

    @property
    def group(self) -> str:
        """What is compared, in words; runs of the same group differ in their seeds alone, or are tuning runs."""
        return describe(self.variant, self.varied, self.without)

    @property
    def baseline(self) -> str:
        """The group of the full recipe, which an ablation is compared with."""
        return describe(self.variant, self.varied)

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        return {"folder": values.pop("folder"), **values}

    @classmethod
    def from_fields(cls, fields: Fields) -> StudyRun:
        # Former versions knew only schedules.
        name = fields.text("variant" if "variant" in fields else "schedule")
        return cls(
            variant=name,
            seed=fields.integer("seed"),
            varied=_texts(fields, "varied"),
            without=fields.optional_text("without"),
            tuned=_texts(fields, "tuned"),
            tuning=fields.boolean("tuning"),
            folder=fields.text("folder"),
        )


def _texts(fields: Fields, name: str) -> dict[str, str]:
    section = fields.section(name)
    return {key: section.text(key) for key in section.content}


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study in the folder `study`, with all of its arguments but those of its place."""

    run: StudyRun
    arguments: RunArguments
    study: Path

    @property
    def name(self) -> str:
        return self.run.folder

    @property
    def folder(self) -> Path:
        return self.study / self.run.folder

    @property
    def is_finished(self) -> bool:
        return RunFolder(self.folder).is_finished

    def to_train(self) -> RunArguments:
        """Return the arguments with which the run is trained, or resumed, in its folder."""
        return self.arguments.replace(output_dir=str(self.folder), resume_from_checkpoint="auto")


@dataclass(frozen=True)
class TuningPlan:
    """
    How arguments are chosen.

    Attributes:
        arguments: what was asked for: {argument: its values or range, as it was typed}.
        seeds: of the tuning runs.
        extend_edges: {argument: how many values may be tried beyond either end of its grid}.
    """

    arguments: Mapping[str, str]
    seeds: Sequence[int]
    extend_edges: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> TuningPlan:
        edges, seeds = fields.section("extend_edges"), fields.content.get("seeds")
        if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
            raise ValueError(f"{fields.file} is damaged: {fields.place}seeds must be whole numbers")
        return cls(_texts(fields, "arguments"), seeds, {name: edges.integer(name) for name in edges.content})


@dataclass(frozen=True)
class StudyPlan:
    """
    What `study.json` holds.

    Attributes:
        arguments: that all runs share. None in files of former versions, which had them as a command line.
        varied: the names of the varied arguments.
        without: {part of the recipe: the arguments that leave it out}, of an ablation.
        variants: the named variants.
        runs: all that were planned.
        tuning: how arguments are chosen, if they are.
        results: what the report needs of the finished runs, by their folders.
    """

    arguments: RunArguments | None
    varied: Sequence[str] = ()
    without: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    variants: Mapping[str, NamedArguments] = field(default_factory=dict)
    runs: Sequence[StudyRun] = ()
    tuning: TuningPlan | None = None
    results: Mapping[str, RunResult] = field(default_factory=dict)

    def label(self, run: StudyRun) -> str:
        """Return what is compared in plain words, for pictures."""
        return describe(self.variant_label(run.variant), run.varied, run.without)

    def variant_label(self, name: str) -> str:
        """Return the label of a variant, with its name where another one has the same label."""
        if name not in self.variants:
            return name.replace("_", " ")
        label = self.variants[name].label
        is_shared = [each.label for each in self.variants.values()].count(label) > 1
        return f"{label} ({name})" if is_shared else label

    @classmethod
    def read(cls, folder: Path) -> StudyPlan | None:
        """Return the plan in a folder, or None if it has none. Raises `ValueError` if it is damaged."""
        path = folder / STUDY_JSON
        if not path.is_file():
            return None
        fields = Fields.read(path, MAX_SIZE)
        given = fields.content.get("arguments")
        variants = fields.section("variants") if "variants" in fields else Fields({}, path)
        results = fields.section("results") if "results" in fields else Fields({}, path)
        return cls(
            arguments=RunArguments(given) if isinstance(given, dict) else None,
            varied=fields.texts("varied"),
            without=fields.mapping("without"),
            variants={name: _named_from_fields(name, variants.section(name)) for name in variants.content},
            runs=[StudyRun.from_fields(each) for each in fields.sections("runs")],
            tuning=TuningPlan.from_fields(fields.section("tuning")) if "tuning" in fields else None,
            results={name: RunResult.from_fields(results.section(name)) for name in results.content},
        )

    def write(self, folder: Path) -> None:
        """Write `study.json`. Raises `OSError`."""
        content = {
            "arguments": None if self.arguments is None else self.arguments.to_record(),
            "varied": list(self.varied),
            "without": {part: dict(arguments) for part, arguments in self.without.items()},
            "variants": {name: _named_to_dict(each) for name, each in self.variants.items()},
            "runs": [run.to_dict() for run in self.runs],
            "tuning": self.tuning and asdict(self.tuning),
            "results": {name: result.to_dict() for name, result in self.results.items()},
        }
        text = json.dumps(content, indent=2, ensure_ascii=False)
        # Lists of numbers, such as curves, stand in one line each.
        text = re.sub(r"\[\n\s*(-?\d[^\[\]{}\"]*?|null[^\[\]{}\"]*?)\s*\]", _join_lines, text)
        write_text(text + "\n", folder / STUDY_JSON)

    def with_runs(self, runs: Iterable[StudyRun]) -> StudyPlan:
        """
        Return the plan with further runs. They replace the compared runs of the same group that have another choice of
        the tuned arguments, whatever their seeds: a mean over both would be one of neither.
        """
        runs = list(runs)
        chosen = {run.group: run.tuned for run in runs if not run.tuning}
        kept = [run for run in self.runs if run.tuning or chosen.get(run.group, run.tuned) == run.tuned]
        known: dict[object, StudyRun] = {}
        for run in [*kept, *runs]:
            known[run.folder if run.tuning else (run.group, run.seed)] = run
        return replace(self, runs=list(known.values()))


def _named_to_dict(named: NamedArguments) -> dict[str, Any]:
    arguments = named.arguments.to_record()
    return {"label": named.label, "shares_warmup": named.shares_warmup, "arguments": arguments}


def _named_from_fields(name: str, fields: Fields) -> NamedArguments:
    arguments = RunArguments(fields.mapping("arguments"))
    return NamedArguments(name, fields.text("label"), arguments, fields.boolean("shares_warmup"))


def _join_lines(match: re.Match[str]) -> str:
    return "[" + re.sub(r"\s*\n\s*", " ", match[1]) + "]"


def plan_runs(
    study: Path,
    common: CommonArguments,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    *,
    tuned: Mapping[str, Mapping[str, str]] | None = None,
    values: Mapping[tuple[str, str], Any] | None = None,
    tuning: bool = False,
) -> list[PlannedRun]:
    """
    Return the runs seed by seed, so that a study that is cut off can compare all variants.

    Args:
        tuned: {what is compared, in words: {argument: its value as a text}}, for the tuned arguments.
        values: {(argument, text): value}, of the tuned arguments.
        tuning: whether the runs only serve the choice of these arguments.
    """
    planned = []
    for seed in seeds:
        for variant in variants:
            group = describe(variant.name, variant.varied, variant.without)
            own = (tuned or {}).get(group, {})
            run = StudyRun(variant.name, seed, variant.varied, variant.without, own, tuning)
            chosen = {name: (values or {})[name, text] for name, text in own.items()}
            own_arguments = variant.arguments.replace(**chosen)
            arguments = common.with_arguments(own_arguments, variant.shares_warmup).replace(seed=seed)
            planned.append(PlannedRun(run, arguments, study))
    return planned


def check_runs(runs: Sequence[PlannedRun], trained_here: bool = True) -> None:
    """
    Raise `ValueError` before any run starts: for arguments with which one would fail at its start, and for two runs
    with equal arguments, which would count as two results. Where they are not `trained_here`, what depends on the
    machine is left to the one that trains.
    """
    checked: dict[RunArguments, str] = {}
    known: dict[object, str] = {}
    splits: dict[str, str] = {}
    for planned in runs:
        without_seed = planned.arguments.replace(seed=0)
        if without_seed not in checked:
            with explained(planned.name, ValueError):
                resolved = resolve(without_seed) if trained_here else resolve_elsewhere(without_seed)
            splits.setdefault(resolved.data.eval_split, planned.name)
            parts = [vars(resolved.model), vars(resolved.data), resolved.training.to_dict()]
            if not trained_here:
                parts.append({name: without_seed.get(name) for name in OF_THE_MACHINE})
            checked[without_seed] = json.dumps(parts, default=str)
        for key in (planned.name, (planned.run.seed, checked[without_seed])):
            if key in known:
                raise ValueError(f"{planned.name} would be the same run as {known[key]}: give each seed and value once")
            known[key] = planned.name
    if len(splits) > 1:
        listed = ", ".join(f"{split} ({name})" for split, name in splits.items())
        raise ValueError(f"the runs would choose on several splits, {listed}: give one eval_split for all")
    for planned in runs:
        if planned.is_finished:
            check_as_planned(planned)


def check_as_planned(planned: PlannedRun) -> None:
    """Raise `ValueError` if a run in the folder of a planned one was trained with other arguments."""
    content = Fields.read(planned.folder / RUN_JSON)
    recorded = {
        **content.mapping("model_arguments"),
        **content.mapping("data_arguments"),
        **content.mapping("arguments"),
    }
    for name, (value, given) in _find_differences(recorded, planned.arguments.given).items():
        if name in recorded and name in planned.arguments:
            raise ValueError(
                f"{planned.folder} holds a run with {name} {value}, not {given}: choose another output_dir"
            )


def _find_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return {argument: its two values} of those that do not mean the same; one that is not given has None."""
    before, now = comparable(first), comparable(second)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return {name: (first.get(name), second.get(name)) for name in names}


def read_begun_plan(study: Path) -> StudyPlan | None:
    """Return the plan of a study of which a run has begun or a result is kept, or None: another one blocks nothing."""
    before = StudyPlan.read(study)
    if before is None or not (before.results or any(RunFolder(study / run.folder).has_begun for run in before.runs)):
        return None
    return before


def update_plan(study: Path, plan: StudyPlan) -> StudyPlan:
    """
    Write `study.json`, or add these runs to it, and return what it holds. Raises `ValueError`, which names them, if it
    has runs with other arguments.
    """
    before = read_begun_plan(study)
    if before is not None:
        check_same_study(study, plan)
        plan = replace(
            before,
            arguments=plan.arguments,
            without={**before.without, **plan.without},
            variants={**before.variants, **plan.variants},
            tuning=plan.tuning or before.tuning,
        ).with_runs(plan.runs)
    else:
        plan = replace(plan, runs=[]).with_runs(plan.runs)
    study.mkdir(parents=True, exist_ok=True)
    plan.write(study)
    return plan


def check_same_study(study: Path, plan: StudyPlan) -> None:
    """Raise `ValueError`, which names them, if a study that has begun in this folder has other arguments."""
    before = read_begun_plan(study)
    if before is None:
        return
    differing = []
    # Former versions kept a command line; their finished runs are compared one by one.
    if before.arguments is not None and plan.arguments is not None:
        for name in _find_differences(before.arguments.given, plan.arguments.given):
            differing.append(f"{name} {before.arguments.get(name, 'not given')}")
        for part, arguments in plan.without.items():
            if part in before.without and _find_differences(before.without[part], arguments):
                differing.append(f"without {part}")
        for name, named in plan.variants.items():
            known = before.variants.get(name)
            if known is not None and _find_differences(known.arguments.given, named.arguments.given):
                differing.append(f"variant {name}")
    chosen = [[*each.tuning.arguments] for each in (before, plan) if each.tuning is not None]
    if len(chosen) == 2 and chosen[0] != chosen[1]:
        differing.append(f"tune {' '.join(chosen[0])}")
    if sorted(before.varied) != sorted(plan.varied):
        differing.append(f"vary {' '.join(before.varied) or 'nothing'}")
    if differing:
        raise ValueError(
            f"{study} holds a study with other arguments ({', '.join(differing)}): choose another output_dir"
        )
