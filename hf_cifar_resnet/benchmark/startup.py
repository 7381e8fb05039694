"""Seconds until commands answer, in fresh processes: the help, and the first step of a training run."""

import os
import subprocess
import sys
import tempfile
import time

HELP, TRAIN_HELP, PARSER, FIRST_STEP = "hf-cifar-resnet --help", "train --help", "transformers' parser", "first step"
_PARSER_CODE = "from transformers import HfArgumentParser, TrainingArguments; HfArgumentParser(TrainingArguments)"
# One step, and the line that tells of it.
_ONE_STEP = (
    "--config quickstart --max_steps 1 --logging_strategy steps --logging_steps 1 --eval_strategy no "
    "--save_strategy no --load_best_model_at_end false"
)


def ways():
    """
    Commands by name, as functions that return the seconds they took.

    - `transformers' parser`: what any script that takes the Trainer's arguments has to load before it can say a word.
    - `first step`: from the command to the end of the first optimizer step of the quickstart.
    """
    cli = ["-m", "hf_cifar_resnet"]
    return {
        HELP: lambda: _run([*cli, "--help"]),
        TRAIN_HELP: lambda: _run([*cli, "train", "--help"]),
        PARSER: lambda: _run(["-c", _PARSER_CODE]),
        FIRST_STEP: lambda: _first_step([*cli, "train", *_ONE_STEP.split()]),
    }


def take_turns(ways, repeats):
    """dict of lists of seconds: each way once, then all again."""
    seconds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            seconds[name].append(work())
    return seconds


def _run(arguments):
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _first_step(arguments):
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *arguments, "--output_dir", os.path.join(folder, "run")]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            seconds = next((time.perf_counter() - started for line in process.stdout if line.startswith("epoch")), None)
            process.stdout.read()
    if process.returncode or seconds is None:
        raise RuntimeError(f"the run made no step: {' '.join(command)}")
    return seconds
