"""Plan the runs of a study: every schedule and variant with every seed."""

import itertools
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..reporting import run_files, run_record
from ..reporting.run_files import STUDY_JSON
from ..training.parser import parse_arguments
from . import report

# What the study itself decides for each run, and how it is told.
DECIDED = {
    "lr_scheduler_type": "use --schedules",
    "seed": "use --seeds",
    "output_dir": "each run has a folder in that of the study",
    "resume_from_checkpoint": "started again, it resumes what is not finished",
    "run_name": "each run has the name of its folder",
    "push_to_hub": "push the run that you choose when it has ended, with hf-cifar-resnet push",
    "hub_model_id": "push the run that you choose when it has ended, with hf-cifar-resnet push",
}


@dataclass
class Run:
    """One training run of a study."""

    folder: Path
    settings: dict

    @property
    def name(self):
        return self.folder.name

    @property
    def finished(self):
        # Written last by a run.
        return (self.folder / run_files.METRICS_JSON).is_file()

    def arguments(self):
        return [text for name, value in self.settings.items() for text in (f"--{name}", str(value))]


def check_free(name):
    """The name of an argument as the Trainer has it. Raises [`UserError`] for one that the study decides."""
    name = name.lstrip("-").replace("-", "_")
    if name in DECIDED:
        raise UserError(f"{name} is decided by the study: {DECIDED[name]}")
    return name


def plan(folder, schedule_names, seeds, vary, without=None):
    """The runs of a study, seed by seed, so that a study that is cut off compares all variants on what it has."""
    runs = []
    left_out = {"": {}} | {f"{report.WITHOUT}{part}": settings for part, settings in (without or {}).items()}
    for seed in seeds:
        for schedule, part, *values in itertools.product(schedule_names, left_out, *vary.values()):
            varied = dict(zip(vary, values, strict=True))
            name = "-".join([schedule + part, *(f"{key}={value}" for key, value in varied.items()), f"seed{seed}"])
            settings = {"lr_scheduler_type": schedule, **varied, **left_out[part], "seed": seed}
            runs.append(Run(folder / name.replace(os.sep, "_"), settings))
    return runs


def check(runs, common):
    """
    Raises [`UserError`] before any run is started: for arguments that would make one fail at its start, and for two
    runs that would be the same, such as those of equal values, which would count as two.
    """
    for argument in common:
        if argument.startswith("--"):
            check_free(argument.split("=")[0])
    known = {}
    for run in runs:
        try:
            model_args, data_args, args = parse_arguments([*common, *run.arguments()])
        except UserError as error:
            raise UserError(f"{run.name}: {error}") from error
        settings = json.dumps([vars(model_args), vars(data_args), args.to_dict()], default=str)
        for key in (run.name, settings):
            if key in known:
                raise UserError(f"{run.name} would be the same run as {known[key]}: give each seed and value once")
        known |= dict.fromkeys((run.name, settings), run.name)


def remember(folder, options, common):
    """Writes what the study is; refuses to mix runs of different settings in one folder."""
    path = folder / STUDY_JSON
    vary, without = sorted(options.vary), dict(options.without)
    if path.is_file():
        before = run_record.read_json(path)
        known = before.get("without", {})
        without = known | without
        changed = [part for part in known if without[part] != known[part]]
        if (before["arguments"], before["varied"]) != (common, vary) or changed:
            raise UserError(
                f"{folder} holds a study with other arguments ({shlex.join(before['arguments'])}): "
                "choose another --output_dir"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run_record.write_json({"arguments": common, "varied": vary, "without": without}, path)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be written: {error.strerror or error}") from error
