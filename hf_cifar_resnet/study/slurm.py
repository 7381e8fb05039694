"""
Execute the runs of a study as jobs of a Slurm cluster, through submitit (https://github.com/facebookincubator/submitit).

A job outlives the study that submitted it. Where Slurm ends it before its run is finished, it saves a checkpoint and is
queued again.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import explained
from ..runs.arguments import RunArguments
from ..runs.files import METRICS_JSON
from .local import EntryPoint, launch

if TYPE_CHECKING:
    import submitit

logger: logging.Logger = logging.getLogger(__name__)

POLL = 2  # seconds between two looks at a log
QUEUE_AGE = 10  # seconds between two calls of squeue, each of which serves all runs
KILL_WAIT = 600  # seconds; Slurm kills a job at most so long after it sent SIGTERM
DEFAULTS = {"time": 240}  # minutes until a job is queued again
NUMBERS = "cpus_per_gpu cpus_per_task gpus_per_node signal_delay_s time".split()
TEXTS = "account constraint exclude gres mem mem_per_cpu mem_per_gpu nodelist partition qos".split()
PARAMETERS = sorted(NUMBERS + TEXTS)
# Slurm sends SIGUSR2 to all processes of a job, but only submitit knows what it means.
IGNORE_USR2 = ("sh", "-c", "trap '' USR2; exec \"$@\"", "sh")


@dataclass
class TrainingJob:
    """
    What a job does: train a run on all devices that Slurm gave it. `module` is what `python -m` runs, with all
    arguments.
    """

    module: Sequence[str]
    log: Path

    def __call__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._terminated = False
        signal.signal(signal.SIGTERM, self._receive)
        self._process = launch(self.module, max(1, torch.cuda.device_count()), prefix=IGNORE_USR2)
        # It ends with the last process, which may be after the launcher's end.
        self._copier = threading.Thread(target=self._copy_output)
        self._copier.start()
        self._copier.join()
        if self._terminated:
            # Slurm cancels this job, or queues it again, unless the job ends by itself before that.
            time.sleep(KILL_WAIT)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Save the run, and return what the job does next time. submitit calls this before Slurm ends the job."""
        import submitit

        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            self._copier.join()
        return submitit.helpers.DelayedSubmission(TrainingJob(self.module, self.log))

    def _receive(self, *_: Any) -> None:
        self._terminated = True

    def _copy_output(self) -> None:
        with open(self.log, "a", encoding="utf-8") as log:
            for line in (self._process and self._process.stdout) or ():
                log.write(line)
                log.flush()


class SlurmEngine:
    """
    Trains each run in a job of its own, at most `jobs` at a time (None: all at once). A run whose job is in Slurm's
    queue already is watched, not submitted again.

    Args:
        jobs: the number of runs at a time.
        parameters: of `submitit.SlurmExecutor`, as texts; the names are in `PARAMETERS`.
        entry: what trains a run.

    Raises:
        `ValueError`: for a wrong parameter.
    """

    here: bool = False

    def __init__(self, jobs: int | None, parameters: Mapping[str, str], entry: EntryPoint):
        for name, value in parameters.items():
            if name not in PARAMETERS:
                raise ValueError(f"slurm {name} is unknown: choose from {', '.join(PARAMETERS)}")
            if name in NUMBERS and not value.isdecimal():
                unit = " of minutes" if name == "time" else ""
                raise ValueError(f"slurm {name} must be a whole number{unit}, got {value}")
        numbers = {name: int(value) for name, value in parameters.items() if name in NUMBERS}
        self.jobs: int | None = jobs
        self.parameters: dict[str, str | int] = {**DEFAULTS, **parameters, **numbers}
        self.entry = entry
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._queue: set[str] | None = None
        self._queue_time = float("-inf")

    def check(self) -> None:
        """Raise `ValueError` if there is no Slurm, or it does not answer."""
        with self._lock:
            self._read_queue()

    def train(self, arguments: RunArguments, log: Path) -> Iterator[str]:
        """Train a run in a job, and yield the new lines of its log. Raises `ValueError` if Slurm refuses the job."""
        folder = log.parent.resolve()
        log.touch()
        with open(log, encoding="utf-8", errors="replace") as file:
            file.seek(0, os.SEEK_END)
            module = [*self.entry.module, *arguments.to_command_line()]
            self._submit_once(TrainingJob(module, log.resolve()), folder)
            line, queued = "", True
            while queued:
                if self._stopped.wait(POLL):
                    raise InterruptedError("the study was stopped, and its job continues")
                with self._lock:
                    queued = self._is_queued(folder)
                for part in file:
                    line += part
                    if line.endswith("\n"):
                        yield line
                        line = ""

    def stop(self) -> None:
        """Stop watching the jobs, which continue."""
        self._stopped.set()
        with self._lock:  # for a job that is being submitted
            if self._queue:
                logger.warning("jobs continue: start the study again to watch them, or stop them with scancel")

    def _submit_once(self, job: TrainingJob, folder: Path) -> None:
        with self._lock:
            if self._stopped.is_set():
                raise InterruptedError("the study was stopped")
            # Its job may have ended while the run waited for its turn.
            if not self._is_queued(folder) and not (folder / METRICS_JSON).is_file():
                with explained("Slurm refused a job", RuntimeError):
                    self._executor(folder).submit(job)
                self._read_queue().add(str(folder))

    def _executor(self, folder: Path) -> submitit.SlurmExecutor:
        import submitit

        # Every run resumes from its last checkpoint, so its job is queued again as often as it takes.
        executor = submitit.SlurmExecutor(folder / "slurm", max_num_timeout=10_000)
        # Some versions of Slurm do not pass a job's cores on to srun.
        cores = [f"--cpus-per-task={self.parameters['cpus_per_task']}"] if "cpus_per_task" in self.parameters else None
        executor.update_parameters(
            job_name=folder.name, comment=str(folder), stderr_to_stdout=True, srun_args=cores, **self.parameters
        )
        return executor

    def _is_queued(self, folder: Path) -> bool:
        """Return whether the job of a run, which has its folder as a comment, waits or runs."""
        return str(folder) in self._read_queue()

    def _read_queue(self) -> set[str]:
        """Return the comments of the jobs that wait or run."""
        if time.monotonic() - self._queue_time > QUEUE_AGE:
            with explained("squeue cannot be used", OSError):
                answer = subprocess.run(["squeue", "--me", "--noheader", "--format=%k"], capture_output=True, text=True)
            if answer.returncode == 0:
                self._queue = set(answer.stdout.splitlines())
            elif self._queue is None:  # later, what was read before serves where Slurm does not answer for a time
                raise ValueError(f"squeue fails: {' '.join(answer.stderr.split())}")
            self._queue_time = time.monotonic()
        return self._queue if self._queue is not None else set()
