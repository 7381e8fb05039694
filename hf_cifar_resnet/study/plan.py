"""Plan the runs of a study: every schedule and variant with every seed."""

import itertools
import json
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from ..commands.parser import parse_arguments
from ..documents import read_json, write_json
from ..errors import UserError, explained
from ..runs.files import METRICS_JSON, STUDY_JSON
from ..training.arguments import resolve
from ..training.optimizers import SCHEDULE_FREE

# The arguments that the study sets for each run, and what to do instead of giving them.
DECIDED = {
    "lr_scheduler_type": "use --schedules",
    "seed": "use --seeds",
    "output_dir": "each run has a folder in that of the study",
    "resume_from_checkpoint": "a study that is started again resumes its unfinished runs",
    "run_name": "each run has the name of its folder",
    "push_to_hub": "push the run that you choose when it has ended, with hf-cifar-resnet push",
    "hub_model_id": "push the run that you choose when it has ended, with hf-cifar-resnet push",
}


@dataclass
class Variant:
    """What a study compares; `varied` and `ablation` are the arguments that set it apart, by name."""

    schedule: str
    varied: dict = field(default_factory=dict)
    without: str | None = None
    ablation: dict = field(default_factory=dict)


@dataclass
class Run:
    """
    One training run of a study. `tuned` are the arguments that are chosen on validation; a run for `tuning` only serves
    that choice. `options` are arguments that do not change its result.
    """

    study: Path
    variant: Variant
    seed: int
    tuned: dict = field(default_factory=dict)
    tuning: bool = False
    options: dict = field(default_factory=dict)

    @property
    def name(self):
        variant = self.variant
        words = [variant.schedule, *(["without", variant.without] if variant.without else [])]
        words += [f"{name}={value}" for name, value in (variant.varied | self.tuned).items()]
        return "-".join([*words, *["tuning"] * self.tuning, f"seed{self.seed}"]).replace(os.sep, "_")

    @property
    def folder(self):
        return self.study / self.name

    @property
    def finished(self):
        # A run writes its metrics last, when its model and all other files are complete.
        return (self.folder / METRICS_JSON).is_file()

    def arguments(self):
        variant = self.variant
        settings = {"lr_scheduler_type": variant.schedule}
        if variant.schedule in SCHEDULE_FREE:
            settings = {"lr_scheduler_type": "constant_with_warmup", "optim": variant.schedule}
        settings |= variant.varied | variant.ablation | self.tuned | {"seed": self.seed} | self.options
        return [text for name, value in settings.items() for text in (f"--{name}", str(value))]

    def entry(self):
        """Return what `study.json` has of a run."""
        kind = {name: getattr(self.variant, name) for name in ("schedule", "varied", "without")}
        return {"folder": self.name, **kind, "seed": self.seed, "tuned": self.tuned, "tuning": self.tuning}


def argument_name(text):
    """Return the name of an argument as the Trainer has it. Raises [`UserError`] for one that the study decides."""
    name = text.lstrip("-").replace("-", "_")
    if name in DECIDED:
        raise UserError(f"{name} is decided by the study: {DECIDED[name]}")
    return name


def plan_variants(schedules, vary, without):
    """Return every schedule with every combination of varied values, for the full recipe and each ablation."""
    return [
        Variant(schedule, dict(zip(vary, values, strict=True)), part, without.get(part, {}))
        for schedule, part, *values in itertools.product(schedules, [None, *without], *vary.values())
    ]


def plan_runs(study, variants, seeds):
    """Return the runs seed by seed, so that a study that is cut off can compare all variants."""
    return [Run(study, variant, seed) for seed in seeds for variant in variants]


def check_runs(runs, common):
    """
    Raise [`UserError`] before any run starts: for arguments with which one would fail at its start, and for two runs
    with equal arguments, which would count as two results.
    """
    for argument in common:
        if argument.startswith("--"):
            argument_name(argument.split("=")[0])
    known = {}
    for run in runs:
        with explained(run.name, ValueError):
            arguments = resolve(parse_arguments([*common, *run.arguments()]))
        model_args, data_args, args = arguments.model, arguments.data, arguments.training
        settings = json.dumps([vars(model_args), vars(data_args), args.to_dict()], default=str)
        for key in (run.name, settings):
            if key in known:
                raise UserError(f"{run.name} would be the same run as {known[key]}: give each seed and value once")
        known |= dict.fromkeys((run.name, settings), run.name)


def write_plan(folder, runs, options, common):
    """Write `study.json`, or add these runs to it. Raises [`UserError`] if it has runs with other arguments."""
    path = folder / STUDY_JSON
    vary, without, entries = sorted(options.vary), dict(options.without), [run.entry() for run in runs]
    if path.is_file():
        before = read_json(path)
        ablations = before["without"]
        without = ablations | without
        changed = any(without[part] != settings for part, settings in ablations.items())
        if (before["arguments"], before["varied"]) != (common, vary) or changed:
            raise UserError(
                f"{folder} holds a study with other arguments ({shlex.join(before['arguments'])}): "
                "choose another --output_dir"
            )
        entries = before["runs"] + entries
    known = {}
    for run in entries:
        kind = run["schedule"], run["without"], *sorted(run["varied"].items()), run["seed"]
        # A run with another choice of the tuned argument is not compared any more.
        known[run["folder"] if run["tuning"] else kind] = run
    study = {"arguments": common, "varied": vary, "without": without, "runs": list(known.values())}
    with explained(f"the folder {folder} cannot be written", OSError):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(study, path)
