"""Execute the runs of a study on this machine."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from queue import SimpleQueue

import torch

from ..device import count_cores
from .worker import ForkedRun


class LocalEngine:
    """
    Trains `jobs` runs at a time ("auto": one for each GPU, or on a CPU for each core). One run at a time uses all
    devices. Several share them: each has one GPU, or on a CPU its share of the cores.
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
                # The pipe closes when the last process has saved and ended, which may be after the launcher's end.
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    yield line
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
                    os.killpg(process.pid, signal.SIGTERM)

    def _start(self, arguments, place):
        gpus = torch.cuda.device_count()
        if self.jobs == 1 and gpus > 1:
            return launch(arguments, gpus)
        environment = {}
        if self.jobs > 1 and gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
            environment = {"CUDA_VISIBLE_DEVICES": visible[place % gpus]}
        if sys.platform == "linux":  # macOS's own libraries do not survive a fork, and Windows cannot
            return ForkedRun(arguments, count_threads(self.jobs), environment)
        return launch(arguments, 1, count_threads(self.jobs), environment=environment)


def launch(arguments, devices, threads=None, prefix=(), environment=None):
    """Start a training run on one or several devices, in a process group of its own that ends as a whole."""
    threads = threads or count_threads(devices)
    command = [sys.executable, "-m"]
    if devices > 1:
        options = f"--num_processes {devices} --num_machines 1 --mixed_precision no --dynamo_backend no --multi_gpu"
        command += ["accelerate.commands.launch", "--quiet", *options.split(), "-m"]
    return subprocess.Popen(
        [*prefix, *command, "hf_cifar_resnet", "train", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)} | (environment or {}),
    )  # fmt: skip


def count_threads(processes):
    """Return the threads of each of so many processes: OMP_NUM_THREADS, or its share of the cores."""
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, count_cores() // processes))
