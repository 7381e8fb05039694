"""
Compare learning-rate schedules: every schedule with every seed, each an ordinary training run in its own folder.

hf-cifar-resnet study --schedules constant cosine one_cycle --seeds 42 43 44 --config quickstart

Or named sets of arguments, from a file or from those that come with the package.

hf-cifar-resnet study --variants schedules constant constant_ema cosine --seeds 42 43 44 --config quickstart

Or an ablation study: the full recipe, and the recipe without each of the named parts.

hf-cifar-resnet study --config strong --schedules cosine --without ema:ema_decay=0 --seeds 42 43 44

Or with arguments of each variant chosen on validation, before fresh seeds are compared.

hf-cifar-resnet study --tune learning_rate=3e-4,1e-3,3e-3 --tune weight_decay=0.05,0.5 --tuning_seeds 0 1 \
    --extend_edges 2 --schedules constant cosine --seeds 42 43 44

Or the accuracy of each number of epochs, for little more than the price of the longest run.

hf-cifar-resnet study --cooldowns 10 20 50 --schedules cosine_with_warmup --warmup_steps 500

At the end the seeds of each variant are also scored as an ensemble.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from .. import cli
from ..checkpoints.outputs import check_output_folder, check_replaced
from ..checkpoints.run_folder import holds_run, lock_run_folder
from ..errors import require
from ..runs.arguments import RunArguments, Value
from ..runs.files import RUN_JSON
from ..runs.folder import RunFolder
from ..study.cooldowns import EPOCHS, STABLE_DECAY, check_cooldowns, execute_with_branches
from ..study.execute import LOG, Engine, execute_runs, forget_ensembles, score_ensembles
from ..study.local import EntryPoint, LocalEngine
from ..study.plan import PlannedRun, StudyPlan, check_runs, check_same_study, plan_runs, update_plan
from ..study.report import STUDY_FILES, summarize, write_report
from ..study.slurm import SlurmEngine
from ..study.tuning import Tuning, check_tuning, parse_dimension, tune
from ..study.variant import (
    CommonArguments,
    NamedArguments,
    Variant,
    check_not_reserved,
    file_names,
    plan_variants,
    read_variants,
    schedule_variant,
)
from .line_parser import LineParser, positive
from .parser import ALL_ARGUMENTS, CifarArgumentParser, parse_value

DEFAULT_SCHEDULES = ["constant", "cosine", "reduce_lr_on_plateau"]
Pair = TypeVar("Pair")


def run_train(argv: list[str]) -> None:
    """Train one run of a study, in a process of its own."""
    cli.main(["train", *argv])


# What a run imports is imported once, by the process that is forked for each run.
ENTRY = EntryPoint(
    module=("hf_cifar_resnet", "train"),
    main=run_train,
    preload=[
        *(f"hf_cifar_resnet.{name}" for name in ("commands.study", "training.build", "hub.callback")),
        *(f"hf_cifar_resnet.{name}" for name in ("training.console", "evaluation.analysis", "evaluation.metrics")),
        *(f"matplotlib.{name}" for name in ("figure", "backends.backend_agg", "backends.backend_svg")),
    ],
)


@dataclass(frozen=True)
class StudyOptions:
    """A parsed command line of `study`."""

    common: CommonArguments
    named: Sequence[NamedArguments]
    vary: Mapping[str, Mapping[str, Value]]
    without: Mapping[str, RunArguments]
    seeds: Sequence[int]
    tuning: Tuning | None
    cooldowns: Sequence[int]
    engine: Engine
    folder: Path
    targets: Sequence[float] | None


def main(argv: list[str], prog: str | None = None) -> None:
    """
    Execute the runs that are not finished, then write tables and plots, and print the main ones. Exit with 1 if a run
    failed.
    """
    parser, options, rest = _parse(argv, prog)
    if options.report is not None:
        folder = Path(options.report)
        _check_report_alone(parser, options, rest)
        _check_no_run("report", folder)
        check_replaced("--report", folder, STUDY_FILES)
        write_report(folder, options.targets)
        print(summarize(folder))
        return
    failed, count = run_study(_read_options(options, rest))
    if failed:
        print(f"{len(failed)} of {count} runs failed: {', '.join(run.name for run in failed)}", file=sys.stderr)
        sys.exit(1)


def run_study(options: StudyOptions) -> tuple[list[PlannedRun], int]:
    """Run a study, and return the compared runs that failed and the number of all."""
    folder = options.folder
    _check_no_run("output_dir", folder)
    check_output_folder("--output_dir", folder, STUDY_FILES)

    # Plan, and check everything before anything is written
    variants = plan_variants(options.named, options.vary, options.without)
    runs = plan_runs(folder, options.common, variants, options.seeds)
    plan = StudyPlan(
        arguments=options.common.merged,
        varied=sorted(options.vary),
        without={part: dict(arguments.to_record()) for part, arguments in options.without.items()},
        variants={named.name: named for named in options.named},
        runs=[run.run for run in runs],
        tuning=None if options.tuning is None else options.tuning.plan,
    )
    check_same_study(folder, plan)
    check_runs(runs, options.engine.here)
    if options.cooldowns:
        check_cooldowns(options.cooldowns, runs)
    options.engine.check()
    # A second study would not know the runs that this one adds to study.json, and write it without them.
    with lock_run_folder(folder):
        try:
            return _train_and_report(options, variants, runs, plan)
        except (KeyboardInterrupt, SystemExit):  # Ctrl-C, SIGTERM or SIGHUP
            with suppress(OSError, ValueError):  # of a terminal that was closed, or a damaged study.json
                print(_describe_stop(folder), file=sys.stderr, flush=True)
            raise


def _train_and_report(
    options: StudyOptions, variants: Sequence[Variant], runs: list[PlannedRun], plan: StudyPlan
) -> tuple[list[PlannedRun], int]:
    folder = options.folder

    # Choose arguments on validation

    def execute(tuning_runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        print(_describe_start(options, len(tuning_runs), "tuning run"), flush=True)
        return execute_runs(tuning_runs, options.engine, tqdm.write)

    if options.tuning is not None:
        check_tuning(options.tuning, variants, runs[0].arguments, options.seeds)
        chosen = tune(folder, options.common, variants, options.tuning, plan, execute, options.engine.here)
        values = options.tuning.values([tuple(each.values()) for each in chosen.values()])
        runs = plan_runs(folder, options.common, variants, options.seeds, tuned=chosen, values=values)
        check_runs(runs, options.engine.here)
        plan = replace(plan, runs=[run.run for run in runs])

    # Train the runs that are compared
    update_plan(folder, plan)
    forget_ensembles(folder, runs)
    print(_describe_start(options, len(runs), "run"), flush=True)
    execute_all: Callable[..., list[PlannedRun]] = execute_with_branches if options.cooldowns else execute_runs
    failed = execute_all(runs, options.engine, tqdm.write)

    # Report
    if len(failed) < len(runs):
        score_ensembles(folder, use_cpu=runs[0].arguments.get("use_cpu", False))
        write_report(folder, options.targets)
        print(summarize(folder))
    return failed, len(runs)


def _describe_start(options: StudyOptions, count: int, kind: str) -> str:
    jobs = options.engine.jobs
    at_once = "all at once" if jobs is None else "one at a time" if jobs == 1 else f"{jobs} at a time"
    runs = f"1 {kind}" if count == 1 else f"{count} {kind}s, {at_once}"
    return f"{runs}, in {options.folder}; the output of a run goes to {LOG} in its folder"


def _describe_stop(folder: Path) -> str:
    plan = StudyPlan.read(folder)
    if plan is None:
        return "Stopped before a run began"
    kind = "tuning runs" if all(run.tuning for run in plan.runs) else "runs"
    done = [each for each in plan.runs if each.folder in plan.results or RunFolder(folder / each.folder).is_finished]
    return f"Stopped: {len(done)} of {len(plan.runs)} {kind} are finished; the same command continues the study"


def _check_report_alone(parser: LineParser, options: Namespace, rest: Sequence[str]) -> None:
    """Raise `ValueError` for what was given beside `--report` and has no effect there."""
    names = [name for name, value in vars(options).items() if value != parser.get_default(name)]
    others = [f"--{name}" for name in names if name not in ("report", "targets")]
    others += [word for word in rest if word != "--use_cpu"]
    if others:
        raise ValueError(f"{others[0]} has no effect with --report, which reads the runs that there are: leave it out")


def _check_no_run(name: str, folder: Path) -> None:
    if holds_run(folder) or (folder / RUN_JSON).exists():
        raise ValueError(f"{name} {folder} holds a run, whose files a study would replace: choose another")


def _parse(argv: list[str], prog: str | None) -> tuple[LineParser, Namespace, list[str]]:
    description = "Compare learning-rate schedules over seeds. All other arguments are those of `train`."
    parser = LineParser(prog=prog, description=description)
    parser.add_argument(
        "--schedules", nargs="+", metavar="NAME",
        help=f"schedules to compare (default without --variants: {' '.join(DEFAULT_SCHEDULES)})",
    )  # fmt: skip
    parser.add_argument(
        "--variants", nargs="+", metavar=("FILE", "NAME"),
        help="named sets of arguments to compare: a YAML file, or one that comes with the package "
        f"({', '.join(file_names())}), and which of them, or else all",
    )  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[42], metavar="N", help="seeds of each variant")
    parser.add_argument("--vary", action="append", default=[], metavar="NAME=A,B",
                        help="also vary this argument of `train`; repeatable")  # fmt: skip
    parser.add_argument("--without", action="append", default=[], metavar="PART:NAME=VALUE,...",
                        help='ablation: also run with these arguments, as "without PART"; repeatable')  # fmt: skip
    parser.add_argument("--tune", action="append", default=[], metavar="NAME=A,B|NAME=LOW:HIGH[:log]",
                        help="choose this argument for each variant on validation; repeatable")  # fmt: skip
    parser.add_argument(
        "--tuning_seeds", nargs="+", type=int, default=[0], metavar="N", help="seeds of the tuning runs"
    )
    parser.add_argument("--tuning_trials", type=positive, default=10,
                        help="points to try of ranges, with Optuna")  # fmt: skip
    parser.add_argument(
        "--extend_edges", nargs="+", default=[], metavar="N|NAME=N",
        help="where the first or last value of a grid wins, try up to N more beyond it, one factor at a time",
    )  # fmt: skip
    parser.add_argument("--cooldowns", nargs="+", type=positive, default=[], metavar="EPOCHS",
                        help="numbers of epochs to compare; those of warmup_stable_decay share one run")  # fmt: skip
    parser.add_argument("--jobs", type=_parse_jobs, metavar="N|auto",
                        help="runs at a time: each on one GPU, its share of a CPU's cores, or a Slurm job "
                        "(default: 1; on Slurm all)")  # fmt: skip
    parser.add_argument("--engine", choices=["local", "slurm"], default="local",
                        help="where the runs are trained: here, or each in a job of a Slurm cluster")  # fmt: skip
    parser.add_argument("--slurm", action="append", default=[], metavar="NAME=VALUE",
                        help="a parameter of each job, such as partition=gpu, gpus_per_node=1; repeatable")  # fmt: skip
    parser.add_argument("--output_dir", default="studies/schedules", help="folder of the study")
    parser.add_argument("--targets", nargs="+", type=float, metavar="ACCURACY",
                        help="accuracies, 0 to 1, to report the time to")  # fmt: skip
    parser.add_argument("--report", metavar="FOLDER", help="only rebuild the tables and plots of this study")
    options, rest = parser.parse_known_args(argv)
    if options.targets and not all(0 < target <= 1 for target in options.targets):
        raise ValueError(f"targets must be above 0 and at most 1, got {' '.join(map(str, options.targets))}")
    return parser, options, rest


def _parse_jobs(text: str) -> str | int:
    return text if text == "auto" else positive(text)


def _read_options(options: Namespace, rest: list[str]) -> StudyOptions:
    parser = CifarArgumentParser(ALL_ARGUMENTS)
    check_not_reserved(word.split("=")[0].lstrip("-").replace("-", "_") for word in rest if word.startswith("--"))
    line = parser.parse(rest)
    if "hub_token" in line.recipe:  # which would be lost on the way to a run
        check_not_reserved(["hub_token"])
    vary = _unique("vary", map(_parse_vary, options.vary))
    schedules = options.schedules or ([] if options.variants else DEFAULT_SCHEDULES)
    if options.cooldowns:
        if options.tune or EPOCHS in vary:
            raise ValueError("--cooldowns takes neither --tune nor --vary num_train_epochs: tune first, on one budget")
        vary[EPOCHS] = {str(budget): float(budget) for budget in options.cooldowns}
        if STABLE_DECAY not in schedules:
            schedules = [*schedules, STABLE_DECAY]
    named = [schedule_variant(name) for name in schedules]
    if options.variants:
        file, *chosen = options.variants

        def check_variant(variant: str, values: Mapping[str, Any]) -> RunArguments:
            return parser.check_values(f"variants {file}: {variant}", values)

        named += read_variants(file, chosen, check_variant)
    return StudyOptions(
        common=CommonArguments(line.typed, line.recipe),
        named=named,
        vary=vary,
        without=_unique("without", map(_parse_without, options.without)),
        seeds=options.seeds,
        tuning=_make_tuning(options),
        cooldowns=options.cooldowns,
        engine=_make_engine(options),
        folder=Path(options.output_dir),
        targets=options.targets,
    )


def _make_tuning(options: Namespace) -> Tuning | None:
    if not options.tune:
        if options.extend_edges:
            raise ValueError("--extend_edges is for --tune: say what to tune")
        return None
    dimensions = [parse_dimension(text) for text in options.tune]
    check_not_reserved(dimension.name for dimension in dimensions)
    if any(dimension.is_range for dimension in dimensions):
        require("optuna", "search")
    return Tuning(
        dimensions, options.tuning_seeds, parse_value, options.tuning_trials,
        _parse_edges(options.extend_edges, [dimension.name for dimension in dimensions]),
    )  # fmt: skip


def _parse_edges(texts: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Return how many values may be tried beyond the grid of each argument, for `2` or `learning_rate=2`."""
    edges: dict[str, int] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not number.isdecimal():
            raise ValueError(f"extend_edges {text}: write it as a whole number, or NAME=N")
        edges |= dict.fromkeys([name] if name else names, int(number))
    return edges


def _make_engine(options: Namespace) -> Engine:
    parameters = _unique("slurm", (_parse_pair("slurm", text) for text in options.slurm))
    if options.engine == "local":
        if parameters:
            raise ValueError("--slurm is for --engine slurm")
        return LocalEngine(options.jobs or 1, ENTRY)
    require("submitit", "slurm")
    return SlurmEngine(None if options.jobs == "auto" else options.jobs, parameters, ENTRY)


def _parse_pair(flag: str, text: str, form: str = "NAME=VALUE") -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise ValueError(f"{flag} {text}: write it as {form}")
    return name, value


def _unique(flag: str, pairs: Iterable[tuple[str, Pair]]) -> dict[str, Pair]:
    """Return the pairs as a dict. Raises `ValueError` for a name that is given twice."""
    found: dict[str, Pair] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{flag} {name} is given twice")
        found[name] = value
    return found


def _argument_name(text: str) -> str:
    name = text.lstrip("-").replace("-", "_")
    check_not_reserved([name])
    return name


def _parse_vary(text: str) -> tuple[str, dict[str, Value]]:
    name, values = _parse_pair("vary", text, "NAME=A,B")
    name = _argument_name(name)
    texts = values.split(",")
    if not all(texts):
        raise ValueError(f"vary {text}: write it as NAME=A,B")
    return name, {each: parse_value(name, each) for each in texts}


def _parse_without(text: str) -> tuple[str, RunArguments]:
    part, _, settings = text.partition(":")
    pairs = [setting.partition("=") for setting in settings.split(",")]
    if not part.replace("_", "").isalnum() or not all(name and value for name, _, value in pairs):
        raise ValueError(f"without {text}: write it as PART:NAME=VALUE,NAME=VALUE, where PART is one word")
    values: dict[str, Any] = _unique(f"without {part}:", ((_argument_name(name), value) for name, _, value in pairs))
    return part, RunArguments({name: parse_value(name, value) for name, value in values.items()})
