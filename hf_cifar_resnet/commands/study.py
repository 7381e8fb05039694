"""
Compare learning-rate schedules: every schedule with every seed, each an ordinary training run in its own folder.

hf-cifar-resnet study --schedules constant cosine one_cycle --seeds 42 43 44 --config quickstart

Or an ablation study: the full recipe, and the recipe without each of the named parts.

hf-cifar-resnet study --config strong --schedules cosine --without ema:ema_decay=0 --seeds 42 43 44

Or with the peak LR of each schedule chosen on validation, before fresh seeds are compared.

hf-cifar-resnet study --tune learning_rate=3e-4,1e-3,3e-3 --schedules constant cosine --seeds 42 43 44

Or the accuracy of each number of epochs, for little more than the price of the longest run.

hf-cifar-resnet study --cooldowns 10 20 50 --schedules cosine_with_warmup --warmup_steps 500

At the end the seeds of each variant are also scored as an ensemble.
"""

import sys
from pathlib import Path

from ..checkpoints.outputs import check_no_checkpoint, check_replaced
from ..checkpoints.run_folder import holds_run
from ..errors import UserError, require
from ..runs.files import RUN_JSON
from ..study import cooldowns, report
from ..study.cooldowns import check_cooldowns, execute_with_branches
from ..study.execute import execute_runs, score_ensembles
from ..study.local import LocalEngine
from ..study.plan import argument_name, check_runs, plan_runs, plan_variants, write_plan
from ..study.read import variant_name
from ..study.search import parse_dimension
from ..study.slurm import SlurmEngine
from ..study.tune import check_tuning, tune
from ..training.arguments import resolve
from .line_parser import LineParser, positive
from .parser import parse_arguments


def main(argv, prog=None):
    """Execute the runs that are not finished, then write tables and plots. Exit with 1 if a run failed."""
    options, common = _parse(argv, prog)
    if options.report is not None:
        _check_no_run("--report", options.report)
        check_replaced("--report", options.report, report.STUDY_FILES)
        print(report.write_report(options.report, options.targets))
        return
    folder = Path(options.output_dir)
    _check_no_run("--output_dir", folder)
    check_no_checkpoint("--output_dir", folder)
    check_replaced("--output_dir", folder, report.STUDY_FILES)
    variants = plan_variants(options.schedules, options.vary, options.without)
    runs = plan_runs(folder, variants, options.seeds)
    check_runs(runs, common)
    if options.cooldowns:
        check_cooldowns(options.cooldowns, runs, common)
    if options.tune:
        check_tuning(
            variants, options, eval_split=resolve(parse_arguments([*common, *runs[0].arguments()])).data.eval_split
        )
        chosen = tune(folder, variants, options, common)
        for run in runs:
            run.tuned = {options.tune.name: chosen[variant_name(run.entry())]}
    write_plan(folder, runs, options, common)
    execute_all = execute_with_branches if options.cooldowns else execute_runs
    failed = execute_all(runs, common, options.engine)
    if len(failed) < len(runs):
        score_ensembles(folder, use_cpu=resolve(parse_arguments([*common, *runs[0].arguments()])).training.use_cpu)
        print(report.write_report(folder, options.targets))
    if failed:
        print(f"{len(failed)} of {len(runs)} runs failed: {', '.join(run.name for run in failed)}", file=sys.stderr)
        sys.exit(1)


def _check_no_run(flag, folder):
    if holds_run(Path(folder)) or Path(folder, RUN_JSON).exists():
        raise UserError(f"{flag} {folder} holds a run, whose files a study would replace: choose another")


def _parse(argv, prog):
    description = "Compare learning-rate schedules over seeds. All other arguments are those of `train`."
    parser = LineParser(prog=prog, description=description)
    default = ["constant", "cosine", "reduce_lr_on_plateau"]
    parser.add_argument("--schedules", nargs="+", default=default, metavar="NAME", help="schedules to compare")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42], metavar="N", help="seeds of each variant")
    parser.add_argument("--vary", action="append", default=[], metavar="NAME=A,B",
                        help="also vary this argument of `train`; repeatable")  # fmt: skip
    parser.add_argument("--without", action="append", default=[], metavar="PART:NAME=VALUE,...",
                        help='ablation: also run with these arguments, as "without PART"; repeatable')  # fmt: skip
    parser.add_argument("--tune", metavar="NAME=A,B|NAME=LOW:HIGH[:log]",
                        help="choose this argument for each schedule on validation")  # fmt: skip
    parser.add_argument(
        "--tuning_seeds", nargs="+", type=int, default=[0], metavar="N", help="seeds of the tuning runs"
    )
    parser.add_argument("--tuning_trials", type=positive, default=10, help="values to try of a range, with Optuna")
    parser.add_argument("--cooldowns", nargs="+", type=positive, metavar="EPOCHS",
                        help="numbers of epochs to compare; those of warmup_stable_decay share one run")  # fmt: skip
    parser.add_argument("--jobs", type=_parse_jobs, metavar="N|auto",
                        help="runs at a time: each on one GPU, its share of a CPU's cores, or a Slurm job")  # fmt: skip
    parser.add_argument("--engine", choices=["local", "slurm"], default="local",
                        help="where the runs are trained: here, or each in a job of a Slurm cluster")  # fmt: skip
    parser.add_argument("--slurm", action="append", default=[], metavar="NAME=VALUE",
                        help="a parameter of each job, such as partition=gpu, gpus_per_node=1; repeatable")  # fmt: skip
    parser.add_argument("--output_dir", default="studies/schedules", help="folder of the study")
    parser.add_argument("--targets", nargs="+", type=float, metavar="ACCURACY",
                        help="accuracies, 0 to 1, to report the time to")  # fmt: skip
    parser.add_argument("--report", metavar="FOLDER", help="only rebuild the tables and plots of this study")
    options, common = parser.parse_known_args(argv)
    if options.targets and not all(0 < target <= 1 for target in options.targets):
        raise UserError(f"--targets must be above 0 and at most 1, got {' '.join(map(str, options.targets))}")
    options.vary = _unique("--vary", map(_parse_vary, options.vary))
    options.without = _unique("--without", map(_parse_without, options.without))
    if options.tune:
        options.tune = _parse_tune(options.tune)
    if options.cooldowns:
        _set_budgets(options)
    options.engine = _make_engine(options)
    return options, common


def _parse_jobs(text):
    return text if text == "auto" else positive(text)


def _make_engine(options):
    parameters = _unique("--slurm", (_parse_pair("--slurm", text) for text in options.slurm))
    if options.engine == "local":
        if parameters:
            raise UserError("--slurm is for --engine slurm")
        return LocalEngine(options.jobs or 1)
    require("submitit", "slurm")
    return SlurmEngine(None if options.jobs == "auto" else options.jobs, parameters)


def _parse_pair(flag, text, form="NAME=VALUE"):
    name, _, value = text.partition("=")
    if not name or not value:
        raise UserError(f"{flag} {text}: write it as {form}")
    return name, value


def _parse_tune(text):
    dimension = parse_dimension(text, "--tune")
    argument_name(dimension.name)
    if dimension.scale:
        require("optuna", "search")
    return dimension


def _set_budgets(options):
    if options.tune or cooldowns.EPOCHS in options.vary:
        raise UserError("--cooldowns takes neither --tune nor --vary num_train_epochs: tune first, on one budget")
    options.vary[cooldowns.EPOCHS] = [str(budget) for budget in options.cooldowns]
    if cooldowns.SCHEDULE not in options.schedules:
        options.schedules = [*options.schedules, cooldowns.SCHEDULE]


def _unique(flag, pairs):
    """Return the pairs as a dict. Raises [`UserError`] for a name that is given twice."""
    found = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f"{flag} {name} is given twice")
        found[name] = value
    return found


def _parse_vary(text):
    name, values = _parse_pair("--vary", text, "NAME=A,B")
    return argument_name(name), values.split(",")


def _parse_without(text):
    part, _, settings = text.partition(":")
    settings = [setting.partition("=") for setting in settings.split(",")]
    if not part.replace("_", "").isalnum() or not all(name and value for name, _, value in settings):
        raise UserError(f"--without {text}: write it as PART:NAME=VALUE,NAME=VALUE, where PART is one word")
    return part, _unique(f"--without {part}:", ((argument_name(name), value) for name, _, value in settings))
