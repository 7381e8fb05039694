"""What surrounds a training in its process: tuning, other runs in the same folder, signals, the end of the group."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import cast

import datasets
from transformers.utils import logging as transformers_logging

from .. import processes
from ..checkpoints.run_folder import lock_run_folder
from ..device import tune_process
from ..runs.files import MARKER
from ..training.arguments import CifarTrainingArguments
from ..training.preemption import PreemptionCallback, watch_signals


def prepare_process(args: CifarTrainingArguments) -> None:
    """
    Make this process ready to train, for as long as it lives: check that all processes of the launch work together,
    quieten the libraries, and tune PyTorch and the memory. Raises `ValueError` for a launch that went wrong.
    """
    processes.check_processes(args)
    quieten_libraries(args)
    tune_process(args.device)


def quieten_libraries(args: CifarTrainingArguments) -> None:
    """Turn off the libraries' progress bars, and warnings that do not apply here."""
    # The Trainer warns of a best checkpoint that was moved, which `checkpoints.resume` finds.
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    if args.disable_tqdm:
        datasets.disable_progress_bars()


@contextmanager
def training_session(args: CifarTrainingArguments, command: list[str]) -> Iterator[PreemptionCallback]:
    """
    Keep the run's folder to this run, and end the run cleanly on signals, of which the callback that this yields is to
    be one of the Trainer's. After a session without an error the process group ends with the program.

    Args:
        args: the arguments of the training, whose `output_dir` is the run's folder; it is created.
        command: the command line, for a message that says how to resume.

    Raises:
        Preempted: a `SystemExit` with 75, after a signal; see [`~hf_cifar_resnet.training.preemption`].
        OSError: if another run is writing into the folder, or it cannot be written.
    """
    folder = Path(cast(str, args.output_dir))
    with watch_signals(command, folder) as preemption, lock_run_folder(folder):
        if processes.is_rank_0():
            (folder / MARKER).unlink(missing_ok=True)
        yield preemption
    processes.destroy_process_group_at_exit()


def command_line(argv: Sequence[str] | None, prog: str | None) -> list[str]:
    """Return the command line of this program, without its launcher and the value of `--hub_token`."""
    program = prog.split() if prog else [sys.argv[0]] if processes.is_launched() else ["python", sys.argv[0]]
    words = sys.argv[1:] if argv is None else argv
    hidden = ["--hub_token=<HUB_TOKEN>" if word.startswith("--hub_token=") else word for word in words]
    return [*program, *("<HUB_TOKEN>" if before == "--hub_token" else word for before, word in pairwise(["", *hidden]))]
