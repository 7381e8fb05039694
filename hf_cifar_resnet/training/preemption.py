"""
Preemption: a checkpoint is saved before a signal ends a run.

SIGTERM, SIGINT, SIGUSR1 and SIGHUP end a run with an exit code that a script can test. During training, a checkpoint
is saved after the current step (and the current evaluation); at any other time the program ends at once, to be resumed
from the last checkpoint. A second signal ends the program immediately with 128 + its number. A signal that was ignored
when the program started stays ignored, as SIGHUP behind `nohup`.

A closed terminal, or the end of the program that reads the output through a pipe, such as a study, is a SIGHUP too,
and a SIGTERM behind `nohup`.
"""

import os
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoints.save import find_last_complete
from ..errors import printable
from ..processes import destroy_process_group_at_exit, is_launched, is_rank_0
from ..runs.files import MARKER
from .workers import SIGNALS

EXIT_CODE = 75  # EX_TEMPFAIL of BSD's sysexits.h: a temporary failure, try again
# Seconds in which signals are one request: `timeout` sends two, to the process and to its group.
SAME_REQUEST = 1.0
# The same behind a launcher, which passes on what a job scheduler may have sent to all processes.
SAME_REQUEST_LAUNCHED = 5.0
STDOUT, STDERR = 1, 2
LOST = getattr(select, "POLLERR", 0) | getattr(select, "POLLHUP", 0)  # a pipe without a reader, a closed terminal


class Preempted(SystemExit):
    """Ends the program with [`EXIT_CODE`]."""


class PreemptionCallback(TrainerCallback):
    """
    Keeps the first signal that this process receives. Outside of training, it ends the program at once. During training
    all processes save a checkpoint and end at the same step after any of them received one.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.training: bool = False
        self.ending: bool = False
        self.stopped: bool = False
        self._processes = 1
        self._group: Any = None  # a process group

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        now = time.monotonic()
        _drop_lost_output()
        if self.ending:
            return
        if self.signum is None:
            self.signum, self._since = signum, now
            if not self.training:
                raise Preempted(EXIT_CODE)
        elif now - self._since > (SAME_REQUEST_LAUNCHED if is_launched() else SAME_REQUEST):
            os._exit(128 + signum)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._processes = args.world_size
        if args.world_size > 1 and torch.distributed.get_backend() != "gloo":
            # An all-reduce on the device would make the host wait for it at every step.
            self._group = torch.distributed.new_group(backend="gloo")
        self.training = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_save |= self._any_signal()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Requested after the save, since a checkpoint that contained it would count as the end of the run.
        self.stopped = self._any_signal()
        control.should_training_stop |= self.stopped

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stopped:  # within an epoch, which ends in the resumed run
            control.should_log = control.should_evaluate = control.should_save = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.stopped |= self._any_signal()
        self.training = False

    def _any_signal(self) -> bool:
        received = torch.tensor(int(self.signum is not None))
        if self._processes > 1:
            torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(received)

    def check(self) -> None:
        """Raise [`Preempted`] if a signal has ended the training; to be called in all processes."""
        if self.stopped and self._processes > 1:
            # When one process exits, the launcher ends the others, which may still have to print their message.
            torch.distributed.barrier(group=self._group)
            destroy_process_group_at_exit()
        if self.stopped or self.signum is not None:
            raise Preempted(EXIT_CODE)


@contextmanager
def watch_signals(command: list[str], folder: str | os.PathLike | None = None) -> Iterator[PreemptionCallback]:
    """
    Yield a [`PreemptionCallback`] that handles signals within the context. If one ends the run, write a marker file
    into its folder, if that exists, and print how to resume: with the `command`, changed to do so.
    """
    watch = PreemptionCallback()
    in_main = threading.current_thread() is threading.main_thread()  # other threads cannot set handlers
    heard = [number for number in SIGNALS if in_main and signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, watch.receive) for number in heard}
    try:
        with _watched_output(_lost_signal(heard)) if heard else nullcontext():
            yield watch
    except Preempted:
        watch.ending = True
        if is_rank_0():
            if folder is not None and os.path.isdir(folder):
                Path(folder, MARKER).touch()
            print(printable(_resume_hint(watch.signum or signal.SIGTERM, folder, command)), flush=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lost_signal(heard: Sequence[int]) -> int:
    """Return what stands for a lost output: SIGHUP, or behind `nohup`, where that is ignored, another one."""
    order = [getattr(signal, name, None) for name in ("SIGHUP", "SIGTERM", "SIGINT", "SIGUSR1")]
    return next(number for number in order if number is not None and number in heard)


@contextmanager
def _watched_output(signum: int) -> Iterator[None]:
    """Send a signal to this process when nobody reads its output any more."""
    # Where the output is closed from the start (`>&-`), the descriptor may be that of any file.
    if sys.stdout is None or not hasattr(select, "poll"):  # on Windows
        yield
        return
    ended, end = os.pipe()

    def watch():
        waiting = select.poll()
        waiting.register(ended, select.POLLIN)
        waiting.register(STDOUT, 0)
        events = dict(waiting.poll())
        if events.get(STDOUT, 0) & LOST and ended not in events:
            os.kill(os.getpid(), signum)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.write(end, b"\n")  # closing it would not do while a forked worker has it too
        thread.join()
        os.close(end)
        os.close(ended)


def _drop_lost_output() -> None:
    """Let an output that nobody can read any more go nowhere, since printing to it would be an error."""
    if hasattr(select, "poll"):
        outputs = select.poll()
        for stream, file in ((STDOUT, sys.stdout), (STDERR, sys.stderr)):
            if file is not None:
                outputs.register(stream, 0)
        for stream, events in outputs.poll(0):
            if events & LOST:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _resume_hint(signum: int, folder: str | os.PathLike | None, command: list[str]) -> str:
    ended = "Interrupted" if signum == signal.SIGINT else "Preempted"
    prefix = f"{ended} by {signal.Signals(signum).name}:"
    saved = find_last_complete(folder) if folder else None
    launcher = ", under the same launcher," if is_launched() else ""
    if saved is None:
        return f"{prefix} nothing was saved yet. Start again{launcher} with {shlex.join(command)}"
    for flag, value in (("--output_dir", str(folder)), ("--resume_from_checkpoint", "auto")):
        place = command.index(flag) if flag in command else len(command)
        command = [*command[:place], flag, value, *command[place + 2 :]]
    return f"{prefix} saved {saved}. Resume{launcher} with {shlex.join(command)}"
