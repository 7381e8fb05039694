"""The program `hf-cifar-resnet COMMAND ...`, which runs a module of `commands`."""

import sys
from collections.abc import Sequence
from importlib import import_module

from . import __version__
from .commands.errors import reports_errors

DEBUG = "--debug"  # before the command; `train --debug` is transformers' own

COMMANDS = {
    "train": "train a model; the same program as train.py",
    "schedules": "draw every learning-rate schedule, without training",
    "preview": "draw training images before and after augmentation",
    "find-lr": "find a learning rate by a range test",
    "study": "compare schedules over seeds, and choose their arguments",
    "push": "push a finished run to the Hugging Face Hub",
    "evaluate": "score a checkpoint on a split, and see its mistakes",
    "predict": "label images",
    "export": "write a checkpoint as ONNX or torch.export",
    "demo": "show a model in the browser, or write its Hugging Face Space",
    "benchmark": "measure where the time goes on this machine",
}


def train() -> None:
    """Run `train` with the arguments of `train.py`. What it imports is part of it, so that Ctrl-C ends that too."""
    with reports_errors():
        import_module(".commands.train", __package__).main()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names with the other arguments."""
    argv = sys.argv[1:] if argv is None else argv
    show_traceback = argv[:1] == [DEBUG]
    with reports_errors(show_traceback):
        _run(argv[1:] if show_traceback else argv)


def _run(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: hf-cifar-resnet COMMAND [options]\n\nTrain ResNets on small images and compare schedules.\n")
        print(*(f"  {name:<12} {summary}" for name, summary in COMMANDS.items()), sep="\n")
        print("\nhf-cifar-resnet COMMAND --help lists the options of a command.")
        print(f"hf-cifar-resnet {DEBUG} COMMAND shows the traceback of an error.")
    elif argv[0] == "--version":
        print(__version__)
    elif argv[0] not in COMMANDS:
        raise ValueError(f"there is no command {argv[0]}; choose one of {', '.join(COMMANDS)}")
    else:
        module = import_module(f".commands.{argv[0].replace('-', '_')}", __package__)
        module.main(argv[1:], prog=f"hf-cifar-resnet {argv[0]}")
