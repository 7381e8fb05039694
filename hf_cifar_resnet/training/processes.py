"""
SIGTERM, SIGINT and SIGUSR1: what was trained is saved, and the program ends with a code that a script can test.

What a signal does depends on when it comes:

- While training: after the step at hand, and after an evaluation at hand, a checkpoint is saved and training ends.
- Before training or after it: the program ends at once. Resuming does the rest, from the last checkpoint.

A second signal ends the program at once, with 128 + its number, and writes nothing.
"""

import atexit
import gc
import os
import shlex
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import TrainerCallback

from ..checkpoints.save import find_last_complete
from ..errors import UserError, printable
from ..reporting.run_record import redact_token

EXIT_CODE = 75  # EX_TEMPFAIL of BSD's sysexits.h: not an error of the program, try again
MARKER = "preempted"
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
# Seconds. A launcher passes on what all processes of a job may have been sent already: that is no second signal.
ECHO = 5.0


class Preempted(SystemExit):
    """Ends the program with [`EXIT_CODE`]; `folder` is that of the run, where there is one."""

    def __init__(self, folder=None):
        super().__init__(EXIT_CODE)
        self.folder = folder


class SignalWatch:
    """The signal that this process has had, if any. Outside of training, it ends the program at once."""

    def __init__(self):
        self.signum = None
        self.training = self.ending = False

    def receive(self, signum, frame):
        now = time.monotonic()
        if self.ending:
            return
        if self.signum is None:
            self.signum, self._since = signum, now
            if not self.training:
                raise Preempted
        elif not _is_launched() or now - self._since > ECHO:
            os._exit(128 + signum)


class PreemptionCallback(TrainerCallback):
    """
    Saves and ends a training after a signal to any of its processes, in all of them at the same step. They ask each
    other at every step, on the CPU; a single process asks nobody.

    Args:
        watch ([`SignalWatch`]): from [`watching`].
    """

    def __init__(self, watch):
        self.watch = watch
        self.stopped = False

    def on_train_begin(self, args, state, control, **kwargs):
        self._processes, self._group = args.world_size, None
        if args.world_size > 1 and torch.distributed.get_backend() != "gloo":
            # Asking on the device would make the host wait for it at every step.
            self._group = torch.distributed.new_group(backend="gloo")
        self.watch.training = True

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save |= self._any_signal()

    def on_save(self, args, state, control, **kwargs):
        # Only now: the checkpoint is one of a training that goes on.
        self.stopped = self._any_signal()
        control.should_training_stop |= self.stopped

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.stopped:  # within an epoch, whose end is to come when the run is resumed
            control.should_log = control.should_evaluate = control.should_save = False

    def on_train_end(self, args, state, control, **kwargs):
        self.stopped |= self._any_signal()
        self.watch.training = False

    def _any_signal(self):
        had = torch.tensor(int(self.watch.signum is not None))
        if self._processes > 1:
            torch.distributed.all_reduce(had, torch.distributed.ReduceOp.MAX, group=self._group)
        return bool(had)

    def check(self):
        """Raises [`Preempted`] after a training that a signal has ended; called by all processes."""
        if self.stopped and self._processes > 1:
            # Or the launcher, seeing one end, would end the one that still has to say so.
            torch.distributed.barrier(group=self._group)
            leave_processes_at_exit()
        if self.stopped or self.watch.signum is not None:
            raise Preempted


@contextmanager
def watching(command):
    """
    Signals are noticed within by a [`SignalWatch`], and as before outside.

    Args:
        command (list of `str`): what was typed, to say how to go on.
    """
    watch = SignalWatch()
    in_main = threading.current_thread() is threading.main_thread()  # or Python handles no signals
    before = {number: signal.signal(number, watch.receive) for number in SIGNALS if in_main}
    try:
        yield watch
    except Preempted as preempted:
        watch.ending = True
        if _is_first():
            print(printable(_farewell(watch.signum or signal.SIGTERM, preempted.folder, command)), flush=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def marking(folder):
    """A preemption within leaves a marker in the run's folder; that of an earlier one goes."""
    marker = Path(folder, MARKER)
    if _is_first():
        marker.unlink(missing_ok=True)
    try:
        yield
    except Preempted:
        if _is_first():
            marker.touch()
        raise Preempted(folder) from None


def _farewell(signum, folder, command):
    """A line that says how to go on."""
    told = f"{'Preempted':<10} by {signal.Signals(signum).name}:"
    saved = find_last_complete(folder) if folder else None
    launcher = ", under the same launcher," if _is_launched() else ""
    if saved is None:
        return f"{told} nothing was saved yet. Start again{launcher} with {shlex.join(command)}"
    for flag, value in (("--output_dir", str(folder)), ("--resume_from_checkpoint", "true")):
        place = command.index(flag) if flag in command else len(command)
        command = [*command[:place], flag, value, *command[place + 2 :]]
    return f"{told} saved {saved}. Go on{launcher} with {shlex.join(command)}"


def _is_first():
    return int(os.environ.get("RANK", 0)) == 0


def _is_launched():
    return "LOCAL_RANK" in os.environ


def typed(argv, prog):
    """The command line of this program, without what launched it."""
    program = prog.split() if prog else [sys.argv[0]] if _is_launched() else ["python", sys.argv[0]]
    return [*program, *redact_token(sys.argv[1:] if argv is None else argv)]


def check_processes(args):
    """
    Stops where the launcher promised more processes than work together.

    `accelerate launch` starts one process on a CPU whatever `--num_processes` says, unless `--multi_gpu` is given too,
    and then the processes do not find each other without `--use_cpu`.
    """
    hint = "On a CPU: accelerate launch --multi_gpu --num_processes N train.py --use_cpu"
    promised = int(os.environ.get("WORLD_SIZE", 1))
    try:
        args.device  # noqa: B018 (sets the devices up, with all that the arguments ask for)
    except (ImportError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error
    if promised != args.world_size:
        raise UserError(
            f"the launcher started {promised} processes, but they do not work together: each would train on its own "
            f"into the same folder. {hint}"
        )
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if by_accelerate and "WORLD_SIZE" not in os.environ:
        raise UserError(f"accelerate launch was asked for several processes but started one. {hint}")


def leave_processes_at_exit():
    """
    Ends the process group when Python exits; for programs whose work is done, in all processes.

    A thread of gloo that still lets go of a tensor while Python is being torn down aborts the process
    (https://github.com/pytorch/pytorch/pull/179291). After a failure it stays: it may wait for ever for a lost peer.
    """

    def leave():
        if torch.distributed.is_initialized():
            # Its threads are waited for once nothing holds it, such as a Trainer's DistributedDataParallel.
            gc.collect()
            torch.distributed.destroy_process_group()

    atexit.register(leave)
