"""Execute the runs of a study, one or several at a time, each as a training run in its own processes."""

import time
from concurrent.futures import ThreadPoolExecutor, as_completed

from tqdm.auto import tqdm

from ..documents import read_json, write_json
from ..runs.files import METRICS_JSON
from .read import ENSEMBLES_JSON, group_runs, read_ensembles, read_study, variant_name

LOG = "train.log"


def execute_runs(runs, common, engine):
    """
    Execute the runs that are not finished, and return those that failed.

    Args:
        runs (list of [`~plan.Run`]): what to train.
        common (list of `str`): arguments of `train` that all runs share.
        engine ([`~local.LocalEngine`] or [`~slurm.SlurmEngine`]): where they are trained.
    """
    waiting = [run for run in runs if not run.finished]
    if len(waiting) < len(runs):
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already")
    failed, started = [], time.monotonic()
    with (
        tqdm(total=len(waiting), unit="run", disable=None) as bar,
        ThreadPoolExecutor(engine.jobs or max(1, len(waiting))) as pool,
    ):
        try:
            futures = {pool.submit(_execute_run, run, common, engine, bar): run for run in waiting}
            for number, future in enumerate(as_completed(futures), 1):
                run, outcome = futures[future], future.result()
                if not run.finished:
                    failed.append(run)
                left = (time.monotonic() - started) / number * (len(waiting) - number)
                tqdm.write(f"[{number}/{len(waiting)}] {run.name}: {outcome}; about {left / 60:.0f} min left")
        except BaseException:  # such as SIGTERM: the current runs save a checkpoint to resume from
            pool.shutdown(wait=False, cancel_futures=True)
            engine.stop()
            raise
    return failed


def _execute_run(run, common, engine, bar):
    """Train until the run ends, and return its outcome in a few words."""
    arguments = [*common, *run.arguments(), "--output_dir", str(run.folder), "--resume_from_checkpoint", "auto"]
    log = run.folder / LOG
    try:
        run.folder.mkdir(exist_ok=True)
        error = _follow(engine.train(arguments, log), bar)
    except OSError as failure:
        return f"FAILED: {failure.strerror or failure}"
    if not run.finished:
        return f"FAILED{f' ({error})' if error else ''}, see {log}"
    metrics = read_json(run.folder / METRICS_JSON)
    return f"test top-1 {metrics['test']['top1']:.2%} after {metrics['timing']['train_seconds']:.0f} s of training"


def _follow(lines, bar):
    """Move the progress bar by the epochs in the output of a run, and return its last error line."""
    done, error = 0.0, None
    for line in lines:
        if line.startswith("error: "):
            error = line.strip()
        elif line.startswith("epoch "):
            epoch, epochs = line.split()[1].split("/")
            share = min(1.0, float(epoch) / float(epochs))
            bar.update(share - done)
            done = share
    bar.update(1 - done)
    return error


def score_ensembles(folder, use_cpu):
    """
    Score the seeds of each variant as an ensemble on the test split, and write `ensembles.json` for the report.

    Variants with unfinished runs are left out; scores that are there already are kept.
    """
    from .ensembles import score_ensemble

    finished, unfinished = read_study(folder)
    incomplete = {variant_name(run) for run in unfinished if not run["tuning"]}
    known = {tuple(each["runs"]): each for each in read_ensembles(folder)}
    for variant, members in group_runs([run for run in finished if not run["tuning"]]).items():
        names = tuple(run["folder"] for run in members)
        if len(names) < 2 or names in known or variant in incomplete:
            continue
        try:
            scores = score_ensemble([folder / name for name in names], use_cpu)
            known[names] = {"runs": names, "test": scores.to_dict()}
        except ValueError as error:
            print(f"no ensemble of {variant}: {error}")
    write_json(list(known.values()), folder / ENSEMBLES_JSON)
