"""
Callbacks of the Trainer: run record, progress lines, epoch boundaries and experiment trackers.

[`CifarTrainer`] calls callbacks in the order of their `priority`, the highest first; one without it, such as those of
transformers, has 0, and of two with the same the one comes first that was added first. transformers' own decide when
to log, evaluate and save, so that callbacks below 0 know what was decided.
"""

import errno
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import transformers
from torch import nn
from tqdm.auto import tqdm
from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from ..data.dataset import EpochSampler
from ..device import draw_without_width
from ..evaluation.scores import ACCURACY_NAMES
from ..runs.events import Kind, RunEvent, append_event
from ..runs.files import EVENTS, RUN_JSON
from ..runs.history import EVALUATION
from ..runs.record import RunRecord

logger: logging.Logger = logging.getLogger(__name__)


def sort_by_priority(callbacks: list[TrainerCallback]) -> None:
    """Sort callbacks into the order in which they are called."""
    callbacks.sort(key=lambda callback: -getattr(callback, "priority", 0))


class QuietProgressCallback(ProgressCallback):
    """The Trainer's progress bar without its printed dictionaries, which [`EpochLineCallback`] replaces."""

    priority: ClassVar[int] = -60  # the lines of an epoch first

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        super().on_train_begin(*args, **kwargs)
        draw_without_width(self.training_bar)

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        super().on_prediction_step(*args, **kwargs)
        draw_without_width(self.prediction_bar)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        pass


class ProcessSeedCallback(TrainerCallback):
    """
    Gives every process random numbers of its own, for dropout and drop path. Before training all have the same seed,
    and so the same weights; a resumed run restores the random numbers of its checkpoint after this.
    """

    priority: ClassVar[int] = 90  # before all that may draw

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.process_index > 0:  # rank 0 draws as a single process does
            set_seed(int(np.random.SeedSequence([args.seed, args.process_index]).generate_state(1)[0]))


class RunRecordCallback(TrainerCallback):
    """
    Writes `run.json` when training begins, so not if the checkpoint to resume from is refused; with the batch that
    `auto_find_batch_size` tries, which `record` has then too.
    """

    def __init__(self, record: RunRecord):
        self.record: RunRecord = record

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.auto_find_batch_size:
            given = self.record.arguments["global_batch_size"]
            batches = args.world_size * args.gradient_accumulation_steps
            tried = (state.train_batch_size or args.train_batch_size) * batches
            if tried != given:
                changed = {**self.record.changed_arguments, "global_batch_size": [given, tried]}
                self.record = replace(self.record, changed_arguments=changed)
        if state.is_world_process_zero:
            self.record.write(Path(str(args.output_dir), RUN_JSON))


class FrozenModulesCallback(TrainerCallback):
    """
    Remembers the `modules` that are in evaluation mode when training begins and have parameters, none of which is
    trained: those that the user has frozen.
    """

    def __init__(self):
        self.modules: list[nn.Module] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model: nn.Module = kwargs["model"]
        modules = [module for module in model.modules() if not module.training]
        trained = [[parameter.requires_grad for parameter in module.parameters()] for module in modules]
        self.modules = [module for module, each in zip(modules, trained, strict=True) if each and not any(each)]

    def set_to_evaluation(self, *args: Any) -> None:
        """Put them into evaluation mode; a hook before the forward pass."""
        for module in self.modules:
            module.eval()


class RunEventsCallback(TrainerCallback):
    """
    Appends the events of a run to the file `events.jsonl` in its folder, for programs that watch it. A training does
    not end because they cannot be written: its checkpoints matter, and fail by themselves if the disk is full.
    """

    priority: ClassVar[int] = -70  # after all that change logs and metrics

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._append("begin", args, state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "loss" in logs:  # an evaluation's scores are logged too
            self._append("log", args, state, logs)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        metrics: dict[str, float] = kwargs["metrics"]
        self._append("evaluate", args, state, metrics)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._append("end", args, state)

    def _append(self, kind: Kind, args: TrainingArguments, state: TrainerState, values: dict | None = None) -> None:
        if not state.is_world_process_zero:
            return
        numbers = {name: value for name, value in (values or {}).items() if isinstance(value, (int, float))}
        event = RunEvent(kind, state.global_step, state.max_steps, state.epoch or 0.0, values=numbers)
        try:
            append_event(event, Path(args.output_dir or "", EVENTS))
        except OSError as error:
            logger.warning(f"an event of the run is not recorded: {error}")


class SamplerCallback(TrainerCallback):
    """
    Sets the epoch of the training images' sampler, which Accelerate does not reach in a run of several processes that
    is resumed within an epoch.
    """

    def __init__(self, find_sampler: Callable[[], EpochSampler]):
        self.find_sampler = find_sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.find_sampler().set_epoch(int(state.epoch or 0))


class EpochBoundary(TrainerCallback):
    """
    Defers the last step's log, evaluation and save to the epoch's end, because a run that is resumed from a checkpoint
    between the two would skip those of the epoch's end.

    It also logs the training metrics before every evaluation, after which training may stop.
    """

    priority: ClassVar[int] = -100  # after all that may request a log, an evaluation or a save

    FLAGS = ("should_log", "should_evaluate", "should_save")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._deferred = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_log |= control.should_evaluate
        if control.should_training_stop or control.should_epoch_stop or state.epoch.is_integer():
            self._deferred = [name for name in self.FLAGS if getattr(control, name)]
            for name in self._deferred:
                setattr(control, name, False)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for name in self._deferred:
            setattr(control, name, True)
        self._deferred = []


class EarlyStoppingCallback(transformers.EarlyStoppingCallback):
    """
    That of transformers, under whose name its state is saved. Where there are several evaluation sets, the metrics of
    those that `metric_for_best_model` does not name are none of its business.
    """

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        metric = args.metric_for_best_model or ""
        if f"eval_{metric.removeprefix('eval_')}" in metrics:
            super().on_evaluate(args, state, control, metrics, **kwargs)


UNITS = ("img/s", "waiting for data")  # figures of which the name stands behind the value


class EpochLineCallback(TrainerCallback):
    """
    Prints a line for each evaluation: loss, accuracies, learning rate, speed and cuts of the learning rate; and at the
    end which epoch was the best, if its weights are loaded then.
    """

    priority: ClassVar[int] = -50  # after the schedule has reacted to an evaluation

    def __init__(self):
        self._train: dict[str, float] = {}
        self._scale = 1.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        lr_scheduler: Any = kwargs["lr_scheduler"]
        self._train = {}
        self._scale = getattr(lr_scheduler, "scale", 1.0)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self._train = logs
            if args.eval_strategy == "no":
                self._report_if_rank_0(args, state, {})

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        metrics: dict[str, float] = kwargs["metrics"]
        lr_scheduler: Any = kwargs["lr_scheduler"]
        if not any(name.startswith("eval_") for name in metrics):
            return
        figures = _evaluation_figures(metrics)
        scale = getattr(lr_scheduler, "scale", 1.0)
        if scale != self._scale:
            figures["LR"] = f"{'cut' if scale < self._scale else 'raised'} to {lr_scheduler.get_last_lr()[0]:.3g}"
            self._scale = scale
        self._report_if_rank_0(args, state, figures)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A signal ends a training between two evaluations, and the run is not over then.
        evaluated = [entry["step"] for entry in state.log_history if any(name.startswith("eval_") for name in entry)]
        is_over = state.global_step >= state.max_steps or state.global_step in evaluated
        is_loaded = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if is_over and is_loaded and state.best_metric is not None and state.is_world_process_zero:
            epochs = [entry["epoch"] for entry in state.log_history if entry.get("step") == state.best_global_step]
            metric = (args.metric_for_best_model or "").removeprefix("eval_")
            score = f"{state.best_metric:{'.2%' if metric in ACCURACY_NAMES else '.4f'}}"
            place = f"epoch {epochs[0]:.4g}" if epochs else f"step {state.best_global_step}"
            _write(f"best  {place}, {ACCURACY_NAMES.get(metric, metric)} {score}: the model has its weights now")

    def _report_if_rank_0(self, args: TrainingArguments, state: TrainerState, evaluated: dict[str, str]) -> None:
        if state.is_world_process_zero:
            epochs = f"{args.num_train_epochs:g}" if args.max_steps <= 0 else f"{state.num_train_epochs:g}"
            self.report(f"{state.epoch or 0:5.4g}/{epochs}", _training_figures(self._train), evaluated)

    def report(self, epoch: str, trained: dict[str, str], evaluated: dict[str, str]) -> None:
        """Print the figures, {name: text}, of the training until this epoch, and of the evaluation then."""
        parts = [f"{text} {name}" if name in UNITS else f"{name} {text}" for name, text in trained.items()]
        scores = [f"{name} {text}" for name, text in evaluated.items()]
        _write("  ".join([f"epoch {epoch}", *parts, *(["| " + scores[0], *scores[1:]] if scores else [])]))


def _write(line: str) -> None:
    try:
        tqdm.write(line)
    except OSError as error:  # nobody reads the output any more, which `preemption` notices and ends the run
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise


# The training metrics of a line, each with its name in a log and its format.
TRAINING_FIGURES = {
    "loss": ("loss", ".4f"),
    "train": ("accuracy", "6.2%"),
    "lr": ("learning_rate", ".3g"),
    "img/s": ("images_per_second", ",.0f"),
    "waiting for data": ("data_wait", ".1%"),
}


def _training_figures(logs: dict[str, float]) -> dict[str, str]:
    return {name: format(logs[key], style) for name, (key, style) in TRAINING_FIGURES.items() if key in logs}


def _evaluation_figures(metrics: Mapping[str, float]) -> dict[str, str]:
    """Return the scores of an evaluation as texts by their names, with that of the evaluation set if it has one."""
    figures = {}
    for metric, value in metrics.items():
        if found := EVALUATION.fullmatch(metric):
            dataset, score = found["dataset"], found["score"]
            if score == "loss":
                figures[f"{dataset or 'eval'} loss"] = f"{value:.4f}"
            else:
                figures[f"{dataset + ' ' if dataset else ''}{ACCURACY_NAMES[score]}"] = f"{value:6.2%}"
    return figures


def parse_report_to(report_to: str | list[str] | None) -> list[str]:
    """Return a list of trackers. Raises `ValueError` for an unknown one, or one that is not installed."""
    names = report_to.split(",") if isinstance(report_to, str) else list(report_to or ())
    trackers = set(names) - {"none", "all"}
    if trackers:
        # Imported here because it takes seconds.
        from transformers.integrations.integration_utils import (
            get_available_reporting_integrations,
            get_reporting_integration_callbacks,
        )

        get_reporting_integration_callbacks(trackers)  # raises for an unknown one
        # Transformers cannot look for flyte.
        if missing := sorted(trackers - {*get_available_reporting_integrations(), "flyte"}):
            raise ValueError(f"report_to {missing[0]}: it is not installed, try `pip install {missing[0]}`")
    return names
