"""
Which learning-rate schedule? Every schedule with every seed, each an ordinary training run in a folder of its own.

hf-cifar-resnet study --schedules constant cosine one_cycle --seeds 42 43 44 --config quickstart

Or: what does each part of a recipe bring? The recipe as it is, and without each of its parts:

hf-cifar-resnet study --config strong --schedules cosine --without ema:ema_decay=0 --seeds 42 43 44

At the end the seeds of each are scored as an ensemble too.
"""

import fcntl
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .errors import LineParser, UserError, reports_user_errors
from .reporting import records, tables
from .reporting.records import STUDY_JSON
from .training import schedules
from .training.launch import holds_run
from .training.parsing import parse_arguments

LOG = "train.log"
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
        return (self.folder / records.METRICS_JSON).is_file()

    def arguments(self):
        return [text for name, value in self.settings.items() for text in (f"--{name}", str(value))]


@reports_user_errors
def main(argv=None, prog=None):
    """Runs what is not finished, then writes tables and plots. Exits with 1 if a run failed."""
    options, common = _parse(argv, prog)
    if options.report is not None:
        print(tables.write_report(options.report, options.targets))
        return
    folder = Path(options.output_dir)
    if holds_run(folder) or (folder / records.RUN_JSON).exists():
        raise UserError(f"--output_dir {folder} holds a run, whose files a study would replace: choose another")
    runs = plan(folder, options.schedules, options.seeds, options.vary, options.without)
    check(runs, common)
    remember(folder, options, common)
    # So that `finally` ends the run at hand, and what it saved can be gone on from.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        failed = execute(runs, common)
    finally:
        signal.signal(signal.SIGTERM, before)
    if len(failed) < len(runs):
        score_ensembles(folder, use_cpu=parse_arguments([*common, *runs[0].arguments()])[-1].use_cpu)
        print(tables.write_report(folder, options.targets))
    if failed:
        print(f"{len(failed)} of {len(runs)} runs failed: {', '.join(run.name for run in failed)}", file=sys.stderr)
        sys.exit(1)


def _parse(argv, prog):
    parser = LineParser(
        prog=prog,
        description="Compare learning-rate schedules over seeds. All other arguments are those of `train`.",
        allow_abbrev=False,
    )
    parser.add_argument("--schedules", nargs="+", default=["constant", "cosine", schedules.PLATEAU], metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42], metavar="N")
    parser.add_argument(
        "--vary", action="append", default=[], metavar="NAME=A,B", help="also vary this argument of train; repeatable"
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="PART:NAME=VALUE,...",
        help="also run with these arguments instead, which leave a part out; repeatable",
    )  # fmt: skip
    parser.add_argument("--output_dir", default="studies/schedules", help="the folder of the study")
    parser.add_argument(
        "--targets", nargs="+", type=float, metavar="ACCURACY", help="accuracies, 0 to 1, to report the time to"
    )
    parser.add_argument(
        "--report", metavar="FOLDER", help="only rebuild tables and plots from the runs in a study folder"
    )
    options, common = parser.parse_known_args(argv)
    if options.targets and not all(0 < target <= 1 for target in options.targets):
        raise UserError(f"--targets must be above 0 and at most 1, got {' '.join(map(str, options.targets))}")
    options.vary = _by_name("--vary", map(_parse_vary, options.vary))
    options.without = _by_name("--without", map(_parse_without, options.without))
    return options, common


def _by_name(flag, pairs):
    found = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f"{flag} {name} is given twice")
        found[name] = value
    return found


def _parse_vary(text):
    name, separator, values = text.partition("=")
    if not name or not separator or not values:
        raise UserError(f"--vary {text}: write it as NAME=A,B")
    return _undecided(name), values.split(",")


def _parse_without(text):
    part, _, settings = text.partition(":")
    settings = [setting.partition("=") for setting in settings.split(",")]
    if not part.replace("_", "").isalnum() or not all(name and value for name, _, value in settings):
        raise UserError(f"--without {text}: write it as PART:NAME=VALUE,NAME=VALUE, where PART is one word")
    return part, _by_name(f"--without {part}:", ((_undecided(name), value) for name, _, value in settings))


def _undecided(name):
    """The name of an argument as the Trainer has it. Raises [`UserError`] for one that the study decides."""
    name = name.lstrip("-").replace("-", "_")
    if name in DECIDED:
        raise UserError(f"{name} is decided by the study: {DECIDED[name]}")
    return name


def plan(folder, schedule_names, seeds, vary, without=None):
    """The runs of a study, seed by seed, so that a study that is cut off compares all variants on what it has."""
    runs = []
    left_out = {"": {}} | {f"{tables.WITHOUT}{part}": settings for part, settings in (without or {}).items()}
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
            _undecided(argument.split("=")[0])
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
        before = records.read_json(path)
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
        records.write_json({"arguments": common, "varied": vary, "without": without}, path)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be written: {error.strerror or error}") from error


def execute(runs, common):
    """Runs one after the other what is not finished. Returns the runs that failed."""
    waiting = [run for run in runs if not run.finished]
    if len(waiting) < len(runs):
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already")
    failed, started = [], time.monotonic()
    with tqdm(total=len(waiting), unit="run", disable=None) as bar:
        for number, run in enumerate(waiting, 1):
            bar.set_description(run.name)
            outcome = _outcome(run, common, bar)
            if not run.finished:
                failed.append(run)
            left = (time.monotonic() - started) / number * (len(waiting) - number)
            tqdm.write(f"[{number}/{len(waiting)}] {run.name}: {outcome}; about {left / 60:.0f} min left")
    return failed


def _outcome(run, common, bar):
    """Trains, and says in a few words how it ended."""
    try:
        _train(run, common, bar)
    except OSError as error:
        return f"FAILED: {error.strerror or error}"
    if not run.finished:
        return f"FAILED, see {run.folder / LOG}"
    metrics = records.read_json(run.folder / records.METRICS_JSON)
    return f"test top-1 {metrics['test']['top1']:.2%} after {metrics['timing']['train_seconds']:.0f} s of training"


def _train(run, common, bar):
    """One run in processes of its own, until it ends."""
    run.folder.mkdir(exist_ok=True)
    with open(run.folder / LOG, "a", encoding="utf-8") as log:
        _lock(log, run)
        place = ["--output_dir", str(run.folder), "--resume_from_checkpoint", "auto"]
        command = [*_launcher(), *common, *run.arguments(), *place]
        # A process group of its own, so that the launcher and what it launched end together.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            encoding="utf-8", errors="replace", start_new_session=True, pass_fds=(log.fileno(),),
        )  # fmt: skip
        try:
            _follow(process, log, bar)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                # Until the last of them has saved and ended, which the launcher does not wait for.
                process.communicate()


def _lock(log, run):
    """Held through the log's open file by every process of the run, so that an orphan of a killed study is noticed."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"{run.folder} is being trained by another process: wait for it or stop it") from None


def _follow(process, log, bar):
    """Copies what a run says into its log, and moves the progress bar by its epochs."""
    done = 0.0
    for line in process.stdout:
        log.write(line)
        log.flush()
        share = _share_done(line)
        bar.update(max(0.0, share - done))
        done = max(done, share)
    process.wait()
    bar.update(1 - done)


def _share_done(line):
    """How much of a run is done after this line of its output, 0 to 1."""
    if not line.startswith("epoch "):
        return 0.0
    done, total = line.split()[1].split("/")
    return min(1.0, float(done) / float(total))


def score_ensembles(folder, use_cpu):
    """
    Scores the models of each variant's seeds as an ensemble on test, where all its runs are finished, and keeps that in
    `ensembles.json`, from which the report is made. What is there already is not computed again.
    """
    from .training.evaluate import score_ensemble

    unfinished = {_without_seed(name) for name in tables.unfinished_runs(folder)}
    known = {tuple(each["runs"]): each for each in tables.read_ensembles(folder)}
    for variant, members in tables.group(tables.read_runs(folder)).items():
        names = tuple(run["name"] for run in members)
        if len(names) < 2 or names in known or _without_seed(names[0]) in unfinished:
            continue
        try:
            scores = score_ensemble([str(folder / name) for name in names], use_cpu)
        except UserError as error:
            print(f"no ensemble of {variant}: {error}")
            continue
        known[names] = {"runs": names, "test": scores}
    aside = folder / f".{tables.ENSEMBLES_JSON}"
    records.write_json(list(known.values()), aside)
    os.replace(aside, folder / tables.ENSEMBLES_JSON)


def _without_seed(name):
    return name.rpartition("-seed")[0]


def _launcher():
    """`accelerate launch` over all devices; on a CPU with all its threads, which it would not give by itself."""
    devices = max(1, torch.cuda.device_count())
    # The cores this process may use, which a batch system limits.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // devices)
    options = f"--num_processes {devices} --num_machines 1 --mixed_precision no --dynamo_backend no"
    spread = ["--multi_gpu"] if devices > 1 else []
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--quiet", *spread, *options.split(),
        "--num_cpu_threads_per_process", str(threads), "-m", "hf_cifar_resnet", "train",
    ]  # fmt: skip
