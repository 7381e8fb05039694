"""Execute the runs of a study on this machine."""

import importlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing import resource_tracker
from queue import SimpleQueue

import torch

from ..device import RUNS_AT_ONCE, count_cores
from ..training.workers import SIGNALS, blocked_signals

# What a run imports. The names are texts, since a study comes before the commands in the order of imports.
PRELOADED = [
    *(f"hf_cifar_resnet.{name}" for name in ("commands.train", "training.build", "hub.callback", "training.console")),
    *(f"hf_cifar_resnet.evaluation.{name}" for name in ("analysis", "metrics")),
    *(f"matplotlib.{name}" for name in ("figure", "backends.backend_agg")),
]


class LocalEngine:
    """
    Trains `jobs` runs at a time ("auto": one for each GPU, or on a CPU for each core). One run at a time uses all
    devices. Several share them: each has its share of the cores and one GPU, which may serve several runs.
    """

    def __init__(self, jobs):
        self.jobs = (torch.cuda.device_count() or count_cores()) if jobs == "auto" else jobs
        self._places, self._processes = SimpleQueue(), set()
        self._lock, self._stopped = threading.Lock(), False
        for place in range(self.jobs):
            self._places.put(place)

    def train(self, arguments, log):
        """Train a run with these arguments of `train`, and yield the lines of its output, which its log gets too."""
        place = self._places.get()
        try:
            with open(log, "a", encoding="utf-8") as file:
                with self._lock:
                    if self._stopped:
                        raise InterruptedError("the study was stopped")
                    process = self._start(arguments, place)
                    self._processes.add(process)
                try:
                    # The pipe closes when the last process has saved and ended, which may be after the launcher's end.
                    for line in process.stdout:
                        file.write(line)
                        file.flush()
                        yield line
                finally:
                    # A run that has not ended, as where its log cannot be written, then saves and ends.
                    process.stdout.close()
                    process.wait()
                    with self._lock:
                        self._processes.remove(process)
        finally:
            self._places.put(place)

    def stop(self):
        """End all runs, which save a checkpoint to resume from."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                with suppress(ProcessLookupError):
                    try:
                        os.killpg(process.pid, signal.SIGTERM)
                    except ProcessLookupError:  # a fork that has just begun has no group of its own yet
                        os.kill(process.pid, signal.SIGTERM)

    def _start(self, arguments, place):
        gpus = torch.cuda.device_count()
        if self.jobs == 1 and gpus > 1:
            return launch(arguments, gpus)
        environment = {RUNS_AT_ONCE: str(self.jobs), "OMP_NUM_THREADS": str(count_threads(self.jobs))}
        if self.jobs > 1 and gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
            environment["CUDA_VISIBLE_DEVICES"] = visible[place % gpus]
        if sys.platform == "linux":  # macOS's own libraries do not survive a fork, and Windows cannot
            return ForkedRun(arguments, environment)
        return launch(arguments, 1, environment=environment)


def launch(arguments, devices, prefix=(), environment=None):
    """Start a training run on one or several devices, in a process group of its own that ends as a whole."""
    command = [sys.executable, "-m"]
    if devices > 1:
        options = f"--num_processes {devices} --num_machines 1 --mixed_precision no --dynamo_backend no --multi_gpu"
        command += ["accelerate.commands.launch", "--quiet", *options.split(), "-m"]
    return subprocess.Popen(
        [*prefix, *command, "hf_cifar_resnet", "train", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": str(count_threads(devices))} | (environment or {}),
    )  # fmt: skip


def count_threads(processes):
    """Return the threads of each of so many processes: OMP_NUM_THREADS, or its share of the cores."""
    # OpenMP takes a list, for nested regions, and ignores what is no number.
    given = re.match(r"\s*([1-9]\d*)\s*(,|$)", os.environ.get("OMP_NUM_THREADS", ""))
    return int(given[1]) if given else max(1, count_cores() // processes)


class ForkedRun:
    """
    A training run in a process of its own, with `pid`, `stdout` (also its standard error) and `wait()` as a
    `subprocess.Popen` has them. It is a fork of a resident process that has imported all modules: as fresh as a process
    of its own, but without the seconds that imports take.

    Args:
        arguments (list of `str`): those of `train`.
        environment (`dict`): variables to set, such as the threads of the run on a CPU (OMP_NUM_THREADS).
    """

    def __init__(self, arguments, environment):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        reader, writer = context.Pipe(duplex=False)
        self._process = context.Process(target=_train, args=(arguments, environment, writer))
        resource_tracker.ensure_running()  # which would unblock signals
        with blocked_signals():  # the resident process ends with the study, not by a signal to all processes
            self._process.start()
        writer.close()
        self.pid = self._process.pid
        self.stdout = os.fdopen(os.dup(reader.fileno()), encoding="utf-8", errors="replace")
        reader.close()

    def wait(self):
        self._process.join()


def _train(arguments, environment, output):
    os.setsid()  # so that a signal to the study's terminal does not reach the run
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.environ |= environment
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    # New objects, since those of the resident process may stand somewhere in a file.
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, encoding="utf-8") for stream in (1, 2))
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    importlib.import_module("hf_cifar_resnet.commands.train").main(arguments, prog="hf-cifar-resnet train")
