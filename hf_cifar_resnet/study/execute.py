"""Execute the runs of a study one after the other, each as a training run in its own processes."""

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
    """Execute the runs that are not finished, one after the other, and return those that failed."""
    waiting = [run for run in runs if not run.finished]
    if len(waiting) < len(runs):
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already")
    failed, started = [], time.monotonic()
    with tqdm(total=len(waiting), unit="run", disable=None) as bar:
        for number, run in enumerate(waiting, 1):
            bar.set_description(run.name)
            outcome = _execute_run(run, common, bar)
            if not run.finished:
                failed.append(run)
            left = (time.monotonic() - started) / number * (len(waiting) - number)
            tqdm.write(f"[{number}/{len(waiting)}] {run.name}: {outcome}; about {left / 60:.0f} min left")
    return failed


def _execute_run(run, common, bar):
    """Train until the run ends, and return its outcome in a few words."""
    try:
        run.folder.mkdir(exist_ok=True)
        with open(run.folder / LOG, "a", encoding="utf-8") as log:
            error = _train(run, common, log, bar)
    except OSError as failure:
        return f"FAILED: {failure.strerror or failure}"
    if not run.finished:
        return f"FAILED{f' ({error})' if error else ''}, see {run.folder / LOG}"
    metrics = run_record.read_json(run.folder / run_files.METRICS_JSON)
    return f"test top-1 {metrics['test']['top1']:.2%} after {metrics['timing']['train_seconds']:.0f} s of training"


def _train(run, common, log, bar):
    """Copy the output of a run to its log, move the progress bar by its epochs, and return its last error line."""
    place = ["--output_dir", str(run.folder), "--resume_from_checkpoint", "auto"]
    # A process group of its own, so that the launcher and the processes that it launched end together.
    process = subprocess.Popen(
        [*_launcher(), *common, *run.arguments(), *place], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", start_new_session=True,
    )  # fmt: skip
    done, error = 0.0, None
    try:
        for line in process.stdout:
            log.write(line)
            log.flush()
            if line.startswith("error: "):
                error = line.strip()
            elif line.startswith("epoch "):
                epoch, epochs = line.split()[1].split("/")
                share = min(1.0, float(epoch) / float(epochs))
                bar.update(share - done)
                done = share
        process.wait()
        bar.update(1 - done)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            # The pipe closes when the last process has saved and ended, which may be after the launcher's end.
            process.communicate()
    return error


def score_ensembles(folder, use_cpu):
    """
    Score the seeds of each variant as an ensemble on the test split, and write `ensembles.json` for the report.

    Variants with unfinished runs are left out; scores that are there already are kept.
    """
    from ..training.scorers import score_ensemble

    runs, unfinished = report.read_study(folder)
    incomplete = {report.variant_name(run) for run in unfinished}
    known = {tuple(each["runs"]): each for each in report.read_ensembles(folder)}
    for variant, members in report.group(runs).items():
        names = tuple(run["folder"] for run in members)
        if len(names) < 2 or names in known or variant in incomplete:
            continue
        try:
            scores = score_ensemble([str(folder / name) for name in names], use_cpu)
        except UserError as error:
            print(f"no ensemble of {variant}: {error}")
            continue
        known[names] = {"runs": names, "test": scores}
    scratch = folder / f".{report.ENSEMBLES_JSON}"
    run_record.write_json(list(known.values()), scratch)
    os.replace(scratch, folder / report.ENSEMBLES_JSON)


def _launcher():
    """Return the command `accelerate launch` over all devices, or on a CPU with all its threads."""
    devices = max(1, torch.cuda.device_count())
    # A batch system may limit the cores that this process can use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    options = f"--num_processes {devices} --num_machines 1 --mixed_precision no --dynamo_backend no"
    options += f" --num_cpu_threads_per_process {max(1, cores // devices)}{' --multi_gpu' if devices > 1 else ''}"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *options.split()]
    return [*launch, "-m", "hf_cifar_resnet", "train"]
