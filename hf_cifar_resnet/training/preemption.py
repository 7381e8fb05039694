"""
SIGTERM, SIGINT and SIGUSR1: what was trained is saved, and the program ends with a code that a script can test.

What a signal does depends on when it comes:

- While training: at the beginning of the next step, a checkpoint is saved.
- During an evaluation: the evaluation is left after its current batch, since it may take longer than what time is left.
  A checkpoint is saved that says, in the Trainer's own `control`, that the evaluation (and the save after it) is due;
  the resumed run begins with it, and so ends as the uninterrupted one does.
- Before training or after it: the program ends at once. Resuming finishes the rest, from the last checkpoint.

A second signal ends the program at once, with 128 + its number, and writes nothing.
"""

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

from ..errors import printable
from ..reporting.records import without_token
from .checkpoints import numbered
from .launch import leave_processes_at_exit

EXIT_CODE = 75  # EX_TEMPFAIL of BSD's sysexits.h: not an error of the program, try again
MARKER = "preempted"
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
# Seconds. A launcher passes on what all processes of a job may have been sent already: that is no second signal.
ECHO = 5.0


class Preempted(SystemExit):
    """Ends the program with [`EXIT_CODE`]."""

    def __init__(self):
        super().__init__(EXIT_CODE)


class Preemption(TrainerCallback):
    """
    Ends a [`CifarTrainer`]'s training by [`Preempted`] after a signal to any of its processes, in all of them at the
    same step or batch of an evaluation. It takes a collective on the CPU each time, and none in a single process.
    """

    def __init__(self):
        self.signum = None
        self.training = self.ending = False
        self.folder = None
        self._first = self._saved = None

    def enter(self, folder):
        """The run's folder; the marker of an earlier preemption goes."""
        self.folder = folder
        if _is_first():
            Path(folder, MARKER).unlink(missing_ok=True)

    # Signals

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

    def check(self):
        """Raises [`Preempted`] where any process had a signal; called by all."""
        had = torch.tensor(int(self.signum is not None))
        if self.training and self._processes > 1:
            torch.distributed.all_reduce(had, torch.distributed.ReduceOp.MAX, group=self._group)
        if had:
            raise Preempted

    # Training

    def on_train_begin(self, args, state, control, **kwargs):
        self._first = state.global_step
        self._processes, self._group = args.world_size, None
        if args.world_size > 1 and torch.distributed.get_backend() != "gloo":
            # Asking on the device would make the host wait for it at every step.
            self._group = torch.distributed.new_group(backend="gloo")
        self.training = True

    def on_step_begin(self, args, state, control, **kwargs):
        self.check()

    def on_prediction_step(self, args, state, control, **kwargs):
        if self.training:
            self.check()

    def on_save(self, args, state, control, **kwargs):
        self._saved = state.global_step

    def on_train_end(self, args, state, control, **kwargs):
        self.training = False

    @contextmanager
    def saving(self, trainer):
        """Within, the training; where it is preempted, it is saved as it stands."""
        try:
            yield
        except Preempted:
            if self.training:
                if trainer.state.global_step not in (self._first, self._saved):
                    trainer._save_checkpoint(trainer.model, trial=None)
                if self._processes > 1:
                    # Or the launcher, seeing one end, would end the one that still writes.
                    torch.distributed.barrier(group=self._group)
                    leave_processes_at_exit()
            raise


@contextmanager
def watching(command):
    """
    Signals are handled within, by a [`Preemption`], and as before outside.

    Args:
        command (list of `str`): what was typed, to say how to go on.
    """
    preemption = Preemption()
    in_main = threading.current_thread() is threading.main_thread()  # or Python handles no signals
    before = {number: signal.signal(number, preemption.receive) for number in SIGNALS if in_main}
    try:
        yield preemption
    except Preempted:
        preemption.ending = True
        if _is_first():
            print(printable(_farewell(preemption, command)), flush=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _farewell(preemption, command):
    """Leaves the marker in the run's folder, and says in a line how to go on."""
    name = signal.Signals(preemption.signum or signal.SIGTERM).name
    folder = preemption.folder
    saved = numbered(folder) if folder else {}
    launcher = ", under the same launcher," if _is_launched() else ""
    if folder:
        Path(folder, MARKER).touch()
    if not saved:
        return f"{'Preempted':<10} by {name}: nothing was saved yet. Start again{launcher} with {shlex.join(command)}"
    last = saved[max(saved)]
    for flag, value in (("--output_dir", folder), ("--resume_from_checkpoint", "true")):
        place = command.index(flag) if flag in command else len(command)
        command = [*command[:place], flag, value, *command[place + 2 :]]
    return f"{'Preempted':<10} by {name}: saved {last}. Go on{launcher} with {shlex.join(command)}"


def _is_first():
    return int(os.environ.get("RANK", 0)) == 0


def _is_launched():
    return "LOCAL_RANK" in os.environ


def typed(argv, prog):
    """The command line of this program, without what launched it."""
    program = prog.split() if prog else [sys.argv[0]] if _is_launched() else ["python", sys.argv[0]]
    return [*program, *without_token(sys.argv[1:] if argv is None else argv)]
