"""A learning-rate range test: the loss while the rate rises exponentially (Smith 2015, arXiv 1506.01186)."""

import contextlib
import math
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.utils.import_utils import is_in_notebook

from ..checkpoints.outputs import check_output
from ..device import tune_process
from ..documents import write_csv
from ..hub.resolve import find_pretrained
from ..reporting.plots import PICTURE, atomic_picture, plot_lr_range
from ..runs.arguments import RunArguments
from ..schedules import ScheduleCallback
from ..training.arguments import resolve
from ..training.build import build_trainer, load_data_and_model
from ..training.callbacks import EpochLineCallback
from ..training.optimizers import SCHEDULE_FREE
from .parser import ALL_ARGUMENTS, CifarArgumentParser, CommandLine
from .session import quieten_libraries

# A loss this many times its lowest has diverged.
DIVERGED = 4.0
COLUMNS = ("learning_rate", "loss", "smoothed")
TABLE = rb"\A" + ",".join(COLUMNS).encode()


class RangeTestCallback(ScheduleCallback):
    """
    Raise the learning rate by the same ratio after every step, to `factor` times the first. Print a line for each tenth
    of the steps where there is no progress bar, and stop when the loss diverges.
    """

    def __init__(self, factor: float) -> None:
        self.factor: float = factor
        self.lowest: float = math.inf

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        lr_scheduler: Any = None,
        **kwargs: Any,
    ) -> None:
        lr_scheduler.rescale(self.factor ** (state.global_step / state.max_steps))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        loss, step = logs["loss"], state.global_step
        if args.disable_tqdm and step % max(1, state.max_steps // 10) == 0:
            print(f"step {step:4}/{state.max_steps}  lr {logs['learning_rate']:.3g}  loss {loss:.4f}", flush=True)
        self.lowest = min(self.lowest, loss)
        if not loss <= DIVERGED * self.lowest:
            control.should_training_stop = True


def main(argv: Sequence[str], prog: str | None = None) -> float:
    """Train for a few steps, draw the loss against the learning rate, print a suggestion and return it."""
    line = _parse(argv, prog)
    options = line.options
    with tempfile.TemporaryDirectory() as folder:
        arguments = resolve(range_test_arguments(line.arguments, options, folder))
        quieten_libraries(arguments.training)
        data, model, arguments = load_data_and_model(arguments, find_pretrained(arguments.model.model_name_or_path))
        args = arguments.training
        print(f"{args.max_steps} steps of {args.global_batch_size} images, from learning rate {options.start_lr:g} to "
              f"{options.end_lr:g}", flush=True)  # fmt: skip
        tune_process(args.device)
        trainer = build_trainer(model, args, data, arguments.data.eval_split)
        trainer.remove_callback(EpochLineCallback)
        trainer.add_callback(RangeTestCallback(options.end_lr / options.start_lr))
        with contextlib.suppress(FloatingPointError):
            trainer.train()
    steps = [entry for entry in trainer.state.log_history if math.isfinite(entry.get("loss", math.nan))]
    if len(steps) < 5:
        raise ValueError(f"the loss diverged after {len(steps)} steps: lower --start_lr")
    rates, losses = ([entry[name] for entry in steps] for name in ("learning_rate", "loss"))
    smoothed = smooth(losses)
    suggestion = suggest(rates, smoothed)
    with atomic_picture(options.output) as file:
        plot_lr_range(rates, losses, smoothed, suggestion, file)
    write_csv([COLUMNS, *zip(rates, losses, smoothed, strict=True)], _table(options))
    lowest, svg = rates[int(np.argmin(smoothed))], Path(options.output).with_suffix(".svg")
    reason = f"the loss, smoothed over a tenth of the steps, falls most steeply there and is lowest at {lowest:.2g}"
    print(f"Suggested learning rate {suggestion:.2g} ({reason}); drawn: {options.output} and {svg}; "
          f"numbers: {_table(options)}")  # fmt: skip
    return suggestion


def range_test_arguments(given: RunArguments, options: Namespace, folder: str) -> RunArguments:
    """Return the arguments of the range test: those that define it, and all others as given."""
    test = given.replace(
        learning_rate=options.start_lr,
        lr_scaling="none",
        max_steps=options.num_steps,
        warmup_steps=0.0,
        lr_scheduler_type="constant",
        lr_scheduler_kwargs=None,
        eval_strategy="no",
        eval_steps=None,
        save_strategy="no",
        save_steps=None,
        load_best_model_at_end=False,
        early_stopping_patience=None,
        logging_strategy="steps",
        logging_steps=1.0,
        output_dir=folder,
    )
    # A notebook's bar would come with a table of every step.
    return test.replace(disable_tqdm=True) if is_in_notebook() else test


def _parse(argv: Sequence[str], prog: str | None) -> CommandLine:
    description = "Find a learning rate; all arguments of `train` apply."
    parser = CifarArgumentParser(ALL_ARGUMENTS, prog=prog, description=description)
    parser.add_argument("--start_lr", type=float, default=1e-6, help="first learning rate")
    parser.add_argument("--end_lr", type=float, default=1.0, help="last learning rate, unless the loss diverges before")
    parser.add_argument("--num_steps", type=int, default=100, help="optimizer steps of the test")
    parser.add_argument(
        "--output", default="find_lr.png", help="PNG to write, with an SVG beside it; the numbers go beside it as CSV"
    )
    line = parser.parse(argv)
    options = line.options
    if not 0 < options.start_lr < options.end_lr or options.num_steps < 10:
        raise ValueError("--start_lr must be above 0 and below --end_lr, and --num_steps at least 10")
    if not math.isfinite(options.end_lr / options.start_lr):
        raise ValueError(
            f"--end_lr must be a number that --start_lr divides, got {options.end_lr} / {options.start_lr}"
        )
    if (optim := line.arguments.get("optim")) in SCHEDULE_FREE:
        raise ValueError(f"find-lr is for schedules, and {optim} has none: use study --tune learning_rate=...")
    check_output("--output", options.output, PICTURE, ending=".png")
    check_output("--output", Path(options.output).with_suffix(".svg"), PICTURE)
    check_output("--output", _table(options), TABLE)
    return line


def _table(options: Namespace) -> Path:
    return Path(options.output).with_suffix(".csv")


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the mean of each loss and its neighbours over a tenth of the test; a running average would lag."""
    half = max(1, len(losses) // 20)
    return [float(np.mean(losses[max(0, i - half) : i + half + 1])) for i in range(len(losses))]


def suggest(rates: Sequence[float], smoothed: Sequence[float]) -> float:
    """Return the rate at which the smoothed loss falls most steeply per factor of the rate, before its lowest point."""
    before_lowest = range(1, max(2, int(np.argmin(smoothed))))
    return rates[min(before_lowest, key=lambda i: smoothed[i + 1] - smoothed[i - 1])]
