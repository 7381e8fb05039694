"""
Start training runs from a resident process that has imported all modules: each run is a fork of it, as fresh as a
process of its own, but without the seconds that imports take.
"""

import importlib
import multiprocessing
import os
import sys

# What a run imports. The names are texts, since a study comes before the commands in the order of imports.
PRELOADED = [
    *(f"hf_cifar_resnet.{name}" for name in ("commands.train", "training.build", "hub.callback", "reporting.console")),
    *(f"hf_cifar_resnet.evaluation.{name}" for name in ("analysis", "metrics")),
    *(f"matplotlib.{name}" for name in ("figure", "backends.backend_agg")),
]


class ForkedRun:
    """
    A training run in a process of its own, with `pid`, `stdout` (also its standard error) and `wait()` as a
    `subprocess.Popen` has them.

    Args:
        arguments (list of `str`): those of `train`.
        threads (`int`): of the run on a CPU.
        environment (`dict`): variables to set.
    """

    def __init__(self, arguments, threads, environment):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        reader, writer = context.Pipe(duplex=False)
        self._process = context.Process(target=_train, args=(arguments, threads, environment, writer))
        self._process.start()
        writer.close()
        self.pid = self._process.pid
        self.stdout = os.fdopen(os.dup(reader.fileno()), encoding="utf-8", errors="replace")
        reader.close()

    def wait(self):
        self._process.join()


def _train(arguments, threads, environment, output):
    os.setsid()  # so that signals reach the workers of the run too
    os.environ |= environment
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    # New objects, since those of the resident process may stand somewhere in a file.
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, encoding="utf-8") for stream in (1, 2))
    import torch

    torch.set_num_threads(threads)
    importlib.import_module("hf_cifar_resnet.commands.train").main(arguments, prog="hf-cifar-resnet train")
