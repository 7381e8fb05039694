"""Execute the runs of a study on this machine."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import TextIO

import torch

from ..device import RUNS_AT_ONCE, count_cores
from ..runs.arguments import RunArguments
from ..training.workers import SIGNALS, blocked_signals


@dataclass(frozen=True)
class EntryPoint:
    """
    What trains a run.

    Attributes:
        module: what `python -m` runs for a run in a process of its own, with its first arguments.
        main: what a process that is there already calls with the run's arguments as a command line; a function of a
            module, since it is sent by its name.
        preload: the modules that a run imports.
    """

    module: Sequence[str]
    main: Callable[[list[str]], object]
    preload: Sequence[str]


class LocalEngine:
    """
    Trains `jobs` runs at a time ("auto": one for each GPU, or on a CPU for each core). One run at a time uses all
    devices. Several share them: each has its share of the cores and one GPU, which may serve several runs.
    """

    here: bool = True

    def __init__(self, jobs: int | str, entry: EntryPoint):
        self.jobs: int | None = (torch.cuda.device_count() or count_cores()) if jobs == "auto" else int(jobs)
        self.entry = entry
        self._places: SimpleQueue[int] = SimpleQueue()
        self._processes: set[subprocess.Popen[str] | ForkedRun] = set()
        self._lock, self._stopped = threading.Lock(), False
        for place in range(self.jobs):
            self._places.put(place)

    def check(self) -> None:
        """This machine can always train."""

    def train(self, arguments: RunArguments, log: Path) -> Iterator[str]:
        """Train a run, and yield the lines of its output, which its log gets too."""
        place = self._places.get()
        try:
            with open(log, "a", encoding="utf-8") as file:
                with self._lock:
                    if self._stopped:
                        raise InterruptedError("the study was stopped")
                    process = self._start(arguments.to_command_line(), place)
                    self._processes.add(process)
                try:
                    # The pipe closes when the last process has saved and ended, which may be after the launcher's end.
                    for line in process.stdout or ():
                        file.write(line)
                        file.flush()
                        yield line
                finally:
                    # A run that has not ended, as where its log cannot be written, then saves and ends.
                    if process.stdout is not None:
                        process.stdout.close()
                    process.wait()
                    with self._lock:
                        self._processes.remove(process)
        finally:
            self._places.put(place)

    def stop(self) -> None:
        """End all runs, which save a checkpoint to resume from."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                with suppress(ProcessLookupError):
                    try:
                        os.killpg(process.pid, signal.SIGTERM)
                    except ProcessLookupError:  # a fork that has just begun has no group of its own yet
                        os.kill(process.pid, signal.SIGTERM)

    def _start(self, argv: list[str], place: int) -> subprocess.Popen[str] | ForkedRun:
        gpus = torch.cuda.device_count()
        jobs = self.jobs or 1
        if jobs == 1 and gpus > 1:
            return launch([*self.entry.module, *argv], gpus)
        environment = {RUNS_AT_ONCE: str(jobs), "OMP_NUM_THREADS": str(count_threads(jobs))}
        if jobs > 1 and gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
            environment["CUDA_VISIBLE_DEVICES"] = visible[place % gpus]
        if sys.platform == "linux":  # macOS's own libraries do not survive a fork, and Windows cannot
            return ForkedRun(argv, environment, self.entry)
        return launch([*self.entry.module, *argv], 1, environment=environment)


def launch(
    module: Sequence[str], devices: int, prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """
    Start `python -m` with a module and its arguments, which train on one or several devices, in a process group of its
    own that ends as a whole.
    """
    command = [sys.executable, "-m"]
    if devices > 1:
        options = f"--num_processes {devices} --num_machines 1 --mixed_precision no --dynamo_backend no --multi_gpu"
        command += ["accelerate.commands.launch", "--quiet", *options.split(), "-m"]
    return subprocess.Popen(
        [*prefix, *command, *module], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": str(count_threads(devices)), **(environment or {})},
    )  # fmt: skip


def count_threads(processes: int) -> int:
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
        argv: the arguments of the run.
        environment: variables to set, such as the threads of the run on a CPU (OMP_NUM_THREADS).
    """

    def __init__(self, argv: list[str], environment: Mapping[str, str], entry: EntryPoint):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(entry.preload))
        reader, writer = context.Pipe(duplex=False)
        self._process = context.Process(target=_train, args=(entry.main, argv, environment, writer))
        resource_tracker.ensure_running()  # which would unblock signals
        with blocked_signals():  # the resident process ends with the study, not by a signal to all processes
            self._process.start()
        writer.close()
        self.pid: int = self._process.pid or 0
        self.stdout: TextIO | None = os.fdopen(os.dup(reader.fileno()), encoding="utf-8", errors="replace")
        reader.close()

    def wait(self) -> None:
        self._process.join()


def _train(
    main: Callable[[list[str]], object], argv: list[str], environment: Mapping[str, str], output: Connection
) -> None:
    os.setsid()  # so that a signal to the study's terminal does not reach the run
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    # New objects, since those of the resident process may stand somewhere in a file.
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, encoding="utf-8") for stream in (1, 2))
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    main(argv)
