"""Execute the runs of a study one after the other, each as a training run in processes of its own."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import torch
from tqdm.auto import tqdm

from ..errors import UserError
from ..reporting import run_files, run_record
from . import report

LOG = "train.log"


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
    metrics = run_record.read_json(run.folder / run_files.METRICS_JSON)
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
    from ..training.scorers import score_ensemble

    unfinished = {_without_seed(name) for name in report.unfinished_runs(folder)}
    known = {tuple(each["runs"]): each for each in report.read_ensembles(folder)}
    for variant, members in report.group(report.read_runs(folder)).items():
        names = tuple(run["name"] for run in members)
        if len(names) < 2 or names in known or _without_seed(names[0]) in unfinished:
            continue
        try:
            scores = score_ensemble([str(folder / name) for name in names], use_cpu)
        except UserError as error:
            print(f"no ensemble of {variant}: {error}")
            continue
        known[names] = {"runs": names, "test": scores}
    aside = folder / f".{report.ENSEMBLES_JSON}"
    run_record.write_json(list(known.values()), aside)
    os.replace(aside, folder / report.ENSEMBLES_JSON)


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
