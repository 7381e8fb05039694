"""
Which learning-rate schedule? Every schedule with every seed, each an ordinary training run in a folder of its own.

hf-cifar-resnet study --schedules constant cosine one_cycle --seeds 42 43 44 --config quickstart

Or: what does each part of a recipe bring? The recipe as it is, and without each of its parts:

hf-cifar-resnet study --config strong --schedules cosine --without ema:ema_decay=0 --seeds 42 43 44

At the end the seeds of each are scored as an ensemble too.
"""

import signal
import sys
from pathlib import Path

from ..checkpoints.run_folder import holds_run
from ..errors import LineParser, UserError, reports_user_errors
from ..reporting import run_files
from ..study import report
from ..study.execute import execute, score_ensembles
from ..study.plan import check, check_free, plan, remember
from ..training import schedules
from ..training.parser import parse_arguments


@reports_user_errors
def main(argv=None, prog=None):
    """Runs what is not finished, then writes tables and plots. Exits with 1 if a run failed."""
    options, common = _parse(argv, prog)
    if options.report is not None:
        print(report.write_report(options.report, options.targets))
        return
    folder = Path(options.output_dir)
    if holds_run(folder) or (folder / run_files.RUN_JSON).exists():
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
        print(report.write_report(folder, options.targets))
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
    return check_free(name), values.split(",")


def _parse_without(text):
    part, _, settings = text.partition(":")
    settings = [setting.partition("=") for setting in settings.split(",")]
    if not part.replace("_", "").isalnum() or not all(name and value for name, _, value in settings):
        raise UserError(f"--without {text}: write it as PART:NAME=VALUE,NAME=VALUE, where PART is one word")
    return part, _by_name(f"--without {part}:", ((check_free(name), value) for name, _, value in settings))
