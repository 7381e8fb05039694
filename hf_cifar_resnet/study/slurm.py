"""
Execute the runs of a study as jobs of a Slurm cluster, through submitit (https://github.com/facebookincubator/submitit).

A job outlives the study that submitted it. Where Slurm ends it before its run is finished, it saves a checkpoint and is
queued again.
"""

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import as_user_error
from ..training.processes import MARKER
from .local import launch

POLL = 2  # seconds between two looks at a log
QUEUE_AGE = 10  # seconds that a look at Slurm's queue serves all runs
DEFAULTS = {"time": 240}  # minutes until a job is queued again
KILL_WAIT = 600  # seconds; Slurm kills a job at most so long after it sent SIGTERM


@dataclass
class TrainingJob:
    """What a job does: train a run with these arguments of `train`, on all devices that Slurm gave it."""

    arguments: list
    log: Path

    def __call__(self):
        marker = self.log.parent / MARKER
        marker.unlink(missing_ok=True)  # that of a run that was preempted before
        # Slurm sends SIGUSR2 to all processes of a job, but only submitit knows what it means.
        ignore = ["env", "--ignore-signal=USR2"]
        with open(self.log, "a", encoding="utf-8") as log:
            self._process = launch(self.arguments, max(1, torch.cuda.device_count()), stdout=log, prefix=ignore)
            self._process.wait()
        if marker.exists():
            # Slurm sent SIGTERM: it cancels this job, or queues it again, unless the job ends by itself before that.
            time.sleep(KILL_WAIT)

    def checkpoint(self):
        """Save the run, and return what the job does next time. submitit calls this before Slurm ends the job."""
        import submitit

        os.killpg(self._process.pid, signal.SIGTERM)
        # Not `wait()`, whose lock `__call__` holds, which this interrupts.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(TrainingJob(self.arguments, self.log))


class SlurmEngine:
    """
    Trains each run in a job of its own, at most `jobs` at a time (None: all at once). A run whose job is in Slurm's
    queue already is watched, not submitted again.

    Args:
        jobs (`int` or `None`): the number of runs at a time.
        parameters (`dict`): of `submitit.SlurmExecutor`, such as `partition`, `time` (minutes) or `gpus_per_node`.

    Raises:
        [`UserError`]: without submitit or Slurm, or for an unknown parameter.
    """

    def __init__(self, jobs, parameters):
        self.jobs, self.parameters = jobs, DEFAULTS | parameters
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._queue, self._queue_time = set(), float("-inf")
        with as_user_error("--slurm", ValueError, RuntimeError):
            self._executor(Path(), "check")
        self._is_queued("")

    def train(self, arguments, log):
        """Train a run in a job, and yield the new lines of its log."""
        folder = log.parent.resolve()
        log.touch()
        with open(log, encoding="utf-8", errors="replace") as file:
            file.seek(0, os.SEEK_END)
            self._submit_once(TrainingJob(arguments, log.resolve()), folder)
            line = ""
            queued = True
            while queued:
                if self._stopped.wait(POLL):
                    raise InterruptedError("the study was stopped, and its job goes on")
                queued = self._is_queued(str(folder))
                for part in file:
                    line += part
                    if line.endswith("\n"):
                        yield line
                        line = ""

    def stop(self):
        """Stop watching the jobs, which go on."""
        self._stopped.set()
        print("the jobs go on: start the study again to watch them, --report shows what is finished, scancel ends them")

    def _submit_once(self, job, folder):
        if self._is_queued(str(folder)):
            return
        with self._lock, as_user_error("Slurm refused the job", RuntimeError, subprocess.CalledProcessError):
            self._executor(folder / "slurm", folder.name, comment=str(folder)).submit(job)
            self._queue.add(str(folder))

    def _executor(self, folder, name, **parameters):
        import submitit

        # Every run resumes from its last checkpoint, so its job is queued again as often as it takes.
        executor = submitit.SlurmExecutor(folder, max_num_timeout=10_000)
        executor.update_parameters(**{"job_name": name, "stderr_to_stdout": True} | self.parameters | parameters)
        return executor

    def _is_queued(self, folder):
        """Return whether the job of a run, which has its folder as a comment, waits or runs."""
        with self._lock:
            if time.monotonic() - self._queue_time > QUEUE_AGE:
                queue = subprocess.run(["squeue", "--me", "--noheader", "--format=%k"], capture_output=True, text=True)
                if queue.returncode == 0:  # Slurm does not answer at times
                    self._queue, self._queue_time = set(queue.stdout.splitlines()), time.monotonic()
            return folder in self._queue
