"""Execute the runs of a study, one or several at a time, each as a training run in its own processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from queue import SimpleQueue

import torch
from tqdm.auto import tqdm

from ..errors import UserError
from ..reporting import run_files, run_record
from .read import ENSEMBLES_JSON, group, read_ensembles, read_study, variant_name
from .worker import ForkedRun, can_fork

LOG = "train.log"


def execute(runs, common, jobs=1):
    """
    Execute the runs that are not finished, `jobs` at a time, and return those that failed.

    One run at a time uses all devices. Several share them: each has one GPU, or on a CPU its share of the cores.
    """
    waiting = [run for run in runs if not run.finished]
    if len(waiting) < len(runs):
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished already")
    failed, started = [], time.monotonic()
    with tqdm(total=len(waiting), unit="run", disable=None) as bar, ThreadPoolExecutor(jobs) as pool:
        executor = _Executor(common, jobs, bar)
        futures = {pool.submit(executor.execute, run): run for run in waiting}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                run, outcome = futures[future], future.result()
                if not run.finished:
                    failed.append(run)
                left = (time.monotonic() - started) / number * (len(waiting) - number)
                tqdm.write(f"[{number}/{len(waiting)}] {run.name}: {outcome}; about {left / 60:.0f} min left")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            executor.stop()
            raise
    return failed


def count_jobs(jobs):
    """Return the number of runs at a time for `--jobs`: for "auto" one for each GPU, or on a CPU for each core."""
    return (torch.cuda.device_count() or _cores()) if jobs == "auto" else jobs


def _cores():
    # A batch system may limit the cores that this process can use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Executor:
    """Executes runs in several threads, and can stop them all."""

    def __init__(self, common, jobs, bar):
        self.common, self.jobs, self.bar = common, jobs, bar
        self._places, self._processes = SimpleQueue(), set()
        self._lock, self._stopped = threading.Lock(), False
        for place in range(jobs):
            self._places.put(place)

    def execute(self, run):
        """Train until the run ends, and return its outcome in a few words."""
        place = self._places.get()
        try:
            run.folder.mkdir(exist_ok=True)
            with open(run.folder / LOG, "a", encoding="utf-8") as log:
                error = self._train(run, log, place)
        except OSError as failure:
            return f"FAILED: {failure.strerror or failure}"
        finally:
            self._places.put(place)
        if not run.finished:
            return f"FAILED{f' ({error})' if error else ''}, see {run.folder / LOG}"
        metrics = run_record.read_json(run.folder / run_files.METRICS_JSON)
        return f"test top-1 {metrics['test']['top1']:.2%} after {metrics['timing']['train_seconds']:.0f} s of training"

    def stop(self):
        """End all runs, which save a checkpoint to resume from."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)

    def _train(self, run, log, place):
        """Copy the output of a run to its log, move the progress bar by its epochs, and return its last error line."""
        folder = ["--output_dir", str(run.folder), "--resume_from_checkpoint", "auto"]
        process = self._start([*self.common, *run.arguments(), *folder], place)
        done, error = 0.0, None
        # The pipe closes when the last process has saved and ended, which may be after the launcher's end.
        for line in process.stdout:
            log.write(line)
            log.flush()
            if line.startswith("error: "):
                error = line.strip()
            elif line.startswith("epoch "):
                epoch, epochs = line.split()[1].split("/")
                share = min(1.0, float(epoch) / float(epochs))
                self.bar.update(share - done)
                done = share
        process.wait()
        with self._lock:
            self._processes.remove(process)
        self.bar.update(1 - done)
        return error

    def _start(self, arguments, place):
        with self._lock:
            if self._stopped:
                raise InterruptedError("the study was stopped")
            process = _start_run(arguments, self.jobs, place)
            self._processes.add(process)
            return process


def _start_run(arguments, jobs, place):
    """Start a run on all devices; with several jobs on one GPU, or on a CPU with a share of the threads."""
    gpus = torch.cuda.device_count()
    devices = max(1, gpus) if jobs == 1 else 1
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, _cores() // (devices * jobs)))
    environment = {}
    if jobs > 1 and gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        environment = {"CUDA_VISIBLE_DEVICES": visible[place % gpus]}
    if devices == 1 and can_fork():
        return ForkedRun(arguments, threads, environment)
    options = f"--num_processes {devices} --num_machines 1 --mixed_precision no --dynamo_backend no"
    options += f" --num_cpu_threads_per_process {threads}{' --multi_gpu' if devices > 1 else ''}"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *options.split()]
    # A process group of its own, so that the launcher and the processes that it launched end together.
    return subprocess.Popen(
        [*launch, "-m", "hf_cifar_resnet", "train", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", start_new_session=True,
        env=os.environ | environment,
    )  # fmt: skip


def score_ensembles(folder, use_cpu):
    """
    Score the seeds of each variant as an ensemble on the test split, and write `ensembles.json` for the report.

    Variants with unfinished runs are left out; scores that are there already are kept.
    """
    from ..training.scorers import score_ensemble

    finished, unfinished = read_study(folder)
    incomplete = {variant_name(run) for run in unfinished if not run["tuning"]}
    known = {tuple(each["runs"]): each for each in read_ensembles(folder)}
    for variant, members in group([run for run in finished if not run["tuning"]]).items():
        names = tuple(run["folder"] for run in members)
        if len(names) < 2 or names in known or variant in incomplete:
            continue
        try:
            scores = score_ensemble([str(folder / name) for name in names], use_cpu)
        except UserError as error:
            print(f"no ensemble of {variant}: {error}")
            continue
        known[names] = {"runs": names, "test": scores}
    scratch = folder / f".{ENSEMBLES_JSON}"
    run_record.write_json(list(known.values()), scratch)
    os.replace(scratch, folder / ENSEMBLES_JSON)
