"""Execute the runs of a study, one or several at a time, each as a training run in its own processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol

from tqdm.auto import tqdm

from ..device import draw_without_width
from ..documents import write_json
from ..errors import reason_of
from ..runs.arguments import RunArguments
from ..runs.events import EventReader
from ..runs.folder import RunFolder
from .plan import PlannedRun
from .read import ENSEMBLES_JSON, EnsembleScores, group_runs, read_ensembles, read_study

LOG = "train.log"
Write = Callable[[str], object]  # shows a line to the user


class Engine(Protocol):
    """Where runs are trained, `here` or on other machines. `jobs` is how many at a time; None is all."""

    jobs: int | None
    here: bool

    def check(self) -> None:
        """Raise `ValueError` or `OSError` if no run can be trained here, before anything is written."""

    def train(self, arguments: RunArguments, log: Path) -> Iterator[str]:
        """Train a run, and yield the lines of its output, which its log gets too."""
        ...

    def stop(self) -> None:
        """Stop, from another thread."""


def execute_runs(runs: Sequence[PlannedRun], engine: Engine, write: Write = print) -> list[PlannedRun]:
    """Execute the runs that are not finished, and return those that failed."""
    waiting = [run for run in runs if not run.is_finished]
    if len(waiting) < len(runs):
        write(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already")
    failed, started = [], time.monotonic()
    with (
        tqdm(total=len(waiting), unit="run", disable=None) as bar,
        ThreadPoolExecutor(engine.jobs or max(1, len(waiting))) as pool,
    ):
        draw_without_width(bar)
        try:
            futures = {pool.submit(_execute_run, run, engine, bar): run for run in waiting}
            for number, future in enumerate(as_completed(futures), 1):
                run, outcome = futures[future], future.result()
                if not run.is_finished:
                    failed.append(run)
                left = (time.monotonic() - started) / number * (len(waiting) - number)
                write(f"[{number}/{len(waiting)}] {run.name}: {outcome}; about {left / 60:.0f} min left")
        except BaseException:  # such as SIGTERM: the current runs save a checkpoint to resume from
            pool.shutdown(wait=False, cancel_futures=True)
            engine.stop()
            raise
    return failed


def _execute_run(run: PlannedRun, engine: Engine, bar: tqdm) -> str:
    """Train until the run ends, and return its outcome in a few words."""
    log = run.folder / LOG
    try:
        run.folder.mkdir(exist_ok=True)
        error = _follow(engine.train(run.to_train(), log), EventReader(RunFolder(run.folder).events), bar)
    except OSError as failure:
        return f"FAILED: {reason_of(failure)}"
    if not run.is_finished:
        return f"FAILED{f' ({error})' if error else ''}, see {log}"
    metrics = RunFolder(run.folder).read_metrics()
    # A tuning run shows the score by which it is chosen, not the one that decides nothing.
    split = metrics.selected_on if run.run.tuning and metrics.selected_on != "none" else "test"
    scores = metrics.validation if split == "validation" else metrics.test
    top1 = "not scored" if scores is None else f"{scores.top1:.2%}"
    return f"{split} top-1 {top1} after {metrics.timing.train_seconds or 0:.0f} s of training"


def _follow(lines: Iterator[str], events: EventReader, bar: tqdm) -> str | None:
    """Move the progress bar by the events of a run, and return the last error in its output."""
    done, error = 0.0, None
    for line in lines:
        if line.startswith("error: "):
            error = line.strip()
        for event in events.read():
            bar.update(event.progress - done)
            done = event.progress
    bar.update(1 - done)
    return error


def forget_ensembles(folder: Path, runs: Sequence[PlannedRun]) -> None:
    """Remove the scores of ensembles with one of these runs that is not finished: its new model will be another."""
    unfinished = {run.name for run in runs if not run.is_finished}
    known = read_ensembles(folder)
    kept = [each for each in known if unfinished.isdisjoint(each.runs)]
    if len(kept) < len(known):
        _write_ensembles(folder, kept)


def score_ensembles(folder: Path, use_cpu: bool, write: Write = print) -> None:
    """
    Score the seeds of each variant as an ensemble on the test split, and write `ensembles.json` for the report.

    Variants with unfinished runs, or whose models are not there any more, are left out; scores that are there already
    are kept.
    """
    from .ensembles import score_ensemble

    study = read_study(folder)
    incomplete = {run.group for run in study.unfinished if not run.tuning}
    known = {each.runs: each for each in read_ensembles(folder)}
    for variant, members in group_runs(study.compared).items():
        names = tuple(each.run.folder for each in members)
        if len(names) < 2 or names in known or variant in incomplete:
            continue
        try:
            known[names] = EnsembleScores(names, score_ensemble([folder / name for name in names], use_cpu))
        except (ValueError, OSError) as error:
            write(f"no ensemble of {variant}: {error}")
    _write_ensembles(folder, known.values())


def _write_ensembles(folder: Path, ensembles: Iterable[EnsembleScores]) -> None:
    content = [{"runs": list(each.runs), "test": each.test.to_dict()} for each in ensembles]
    write_json(content, folder / ENSEMBLES_JSON)
