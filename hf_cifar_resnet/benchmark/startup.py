"""Seconds until commands answer, in fresh processes: the help, and the first step of a training run."""

import os
import subprocess
import sys
import tempfile
import time

HELP, TRAIN_HELP, PARSER, FIRST_STEP = "hf-cifar-resnet --help", "train --help", "transformers' parser", "first step"
_CLI = ("-m", "hf_cifar_resnet")
# One step, and the line that reports it.
_ONE_STEP = (
    "--config quickstart --max_steps 1 --logging_strategy steps --logging_steps 1 --eval_strategy no "
    "--save_strategy no --load_best_model_at_end false"
)
# `transformers' parser` is what any script that takes the Trainer's arguments has to load before it answers.
_COMMANDS = {
    HELP: (*_CLI, "--help"),
    TRAIN_HELP: (*_CLI, "train", "--help"),
    PARSER: ("-c", "from transformers import HfArgumentParser, TrainingArguments; HfArgumentParser(TrainingArguments)"),
    FIRST_STEP: (*_CLI, "train", *_ONE_STEP.split(), "--output_dir"),
}


def measure(repeats):
    """Return the seconds of each command, in turns: to its end, or to the end of the quickstart's first step."""
    seconds = {name: [] for name in _COMMANDS}
    for _ in range(repeats):
        for name, command in _COMMANDS.items():
            seconds[name].append(_measure_once(command, trains=name == FIRST_STEP))
    return seconds


def _measure_once(command, trains):
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-u", *command, *[os.path.join(folder, "run")] * trains]
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            steps = [time.perf_counter() for line in process.stdout if line.startswith("epoch")]
    if process.returncode or (trains and not steps):
        raise RuntimeError(f"this command failed: {' '.join(command)}")
    return (steps[0] if trains else time.perf_counter()) - started
