"""
Workers of a data loader that leave the signals of a preemption to the process that trains.

Slurm, `timeout`, a container's stop and Ctrl-C in a terminal signal all processes of a run. Workers would die of that
before the training process has finished its step, which then could not be saved.
"""

import atexit
import multiprocessing
import multiprocessing.context as context
import signal
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import process, resource_tracker

# What ends a run: see `preemption`. This module is light, since every spawned worker imports it.
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
_workers: weakref.WeakSet[process.BaseProcess] = weakref.WeakSet()


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Block [`SIGNALS`] in this thread, and for good in the processes that it starts within the context."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker(process.BaseProcess):
    """A process that none of [`SIGNALS`] reaches: its parent ends it by SIGKILL."""

    def start(self) -> None:
        _workers.add(self)
        if not isinstance(self, context.ForkProcess):
            resource_tracker.ensure_running()  # which would unblock SIGINT and SIGTERM
        with blocked_signals():
            super().start()

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a server of forks may have been started without
        super().run()

    def terminate(self) -> None:
        self.kill()


@atexit.register
def _end_workers() -> None:
    """End the workers that are left when Python exits, before `multiprocessing` would send SIGTERM and wait forever."""
    if _workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would report them as killed
        for worker in _workers:
            worker.kill()


if hasattr(signal, "pthread_sigmask"):  # not on Windows, which knows none of this

    class ForkWorker(_Worker, context.ForkProcess):
        pass

    class SpawnWorker(_Worker, context.SpawnProcess):
        pass

    class ForkServerWorker(_Worker, context.ForkServerProcess):
        pass

    class _ForkContext(context.ForkContext):
        Process = ForkWorker

    class _SpawnContext(context.SpawnContext):
        Process = SpawnWorker

    class _ForkServerContext(context.ForkServerContext):
        Process = ForkServerWorker

    _CONTEXTS = {"fork": _ForkContext(), "spawn": _SpawnContext(), "forkserver": _ForkServerContext()}
else:
    _CONTEXTS = {}


def worker_context(start_method: str | None = None) -> context.BaseContext | str:
    """Return the context in which a `DataLoader` starts its workers, by a start method or the default one."""
    method = start_method or multiprocessing.get_start_method()
    return _CONTEXTS.get(method, method)
