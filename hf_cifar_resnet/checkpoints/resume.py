"""Resume a run: find its last complete checkpoint, check that it fits, and restore what transformers leaves out."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import safe_globals

from ..documents import read_json
from ..errors import one_line
from ..processes import decide_on_rank_0, is_rank_0
from ..runs.arguments import comparable
from ..runs.files import TRAINING_ARGS_JSON, WEIGHTS, list_checkpoints
from .load import find_class_difference
from .save import EMA_FILE, TRAINER_STATE, copy_checkpoint, verify_checkpoint

MAX_STATE = 2**30  # bytes of a Trainer's state, which has some 300 for each log
PICKLED = (".pt", ".pth")
# Arguments of the training that a resumed run has to keep, and why. `changes` has those of the data.
FIXED = {
    "global_batch_size": "an epoch would have another number of steps than those that are done",
    "dataloader_drop_last": "an epoch would have another number of steps than those that are done",
    "metric_for_best_model": "the best score so far is of another metric",
    "greater_is_better": "the best score so far was chosen the other way round",
    "saved_weights": "the best score so far is of the other weights",
    "early_stopping_patience": "the evaluations since the best one are not counted alike",
}

logger: logging.Logger = logging.getLogger(__name__)

# Find the checkpoint


@dataclass(frozen=True)
class TrainingProgress:
    """How far a run had come at a checkpoint, by the Trainer's state in it."""

    step: int
    max_steps: int
    stopped: bool  # by a callback, such as early stopping
    best: Path | None  # the best checkpoint up to this one; it lies beside this one, wherever the run was moved
    batch_size: int | None  # images per device and step, as `auto_find_batch_size` found it


def read_progress(checkpoint: Path) -> TrainingProgress:
    """Read how far a run had come. Raises `ValueError` or `OSError` if the Trainer's state cannot be read."""
    try:
        state = read_json(checkpoint / TRAINER_STATE, MAX_STATE)
    except ValueError as error:
        raise ValueError(f"{checkpoint / TRAINER_STATE} cannot be read: {error}") from error
    best, batch_size = state.get("best_model_checkpoint"), state.get("train_batch_size")
    step, max_steps = state.get("global_step"), state.get("max_steps")
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    if not isinstance(step, int) or not isinstance(max_steps, int):
        raise ValueError(f"{checkpoint / TRAINER_STATE} has no global_step and max_steps")
    return TrainingProgress(
        step=step,
        max_steps=max_steps,
        stopped=bool(control.get("should_training_stop")),
        best=checkpoint.parent / Path(best).name if best else None,
        batch_size=batch_size,
    )


def verify_resumable(checkpoint: Path, needs_best: bool) -> None:
    """
    Raise `ValueError` or `OSError` if a training cannot resume from a checkpoint, or from the best model up to it,
    which is loaded at the end of the training if `needs_best`.
    """
    verify_checkpoint(checkpoint)
    best = read_progress(checkpoint).best
    if needs_best and best is not None and best != checkpoint:
        try:
            verify_checkpoint(best)
        except ValueError as error:
            raise ValueError(f"the checkpoint {checkpoint} needs the best model up to it: {error}") from error


def find_resumable(given: str | Path | bool, folder: str | os.PathLike[str], needs_best: bool) -> Path:
    """
    Return the checkpoint `given`, or for True the last one of a run that can be resumed. Raises `ValueError` or
    `OSError` if it cannot be.
    """
    if not isinstance(given, bool):
        checkpoint = Path(given).expanduser()
        verify_resumable(checkpoint, needs_best)
        return checkpoint
    checkpoint = find_last_resumable(folder, needs_best)
    if checkpoint is None:
        raise ValueError(f"{folder} cannot be resumed: it has no complete checkpoint")
    return checkpoint


def find_last_resumable(folder: str | os.PathLike[str], needs_best: bool) -> Path | None:
    """Return the last checkpoint of a run that can be resumed, or None, with a warning for each later one."""
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            verify_resumable(checkpoint, needs_best)
        except (ValueError, OSError) as error:
            logger.warning("skipped: %s", one_line(error))
        else:
            return checkpoint
    return None


# Check that it fits


def check_fits(checkpoint: Path, model: nn.Module, args: TrainingArguments) -> None:
    """
    Raise `ValueError` for a checkpoint that training with this model and these arguments cannot resume from: it holds
    other weights, another optimizer's state, or more than plain values.
    """
    if not (checkpoint / "scheduler.pt").is_file():
        # The Trainer would begin with new moments and the first learning rate.
        raise _resume_error(checkpoint, "it was saved with save_only_model, without optimizer and schedule")
    before, now = comparable(read_training_arguments(checkpoint)), comparable(args.to_dict())
    optim = before.get("optim")
    if optim != args.optim:
        name = getattr(args.optim, "value", args.optim)
        raise _resume_error(checkpoint, f"it was trained with optim {optim}, not {name}, and holds its state")
    for name, reason in FIXED.items():
        values = before.get(name), now.get(name)
        # None stands for what is not known, such as the direction of a metric that nothing is chosen by; but a run that
        # had no early stopping does not get it.
        is_known = values[1] is not None and (values[0] is not None or name == "early_stopping_patience")
        if is_known and values[0] != values[1]:
            raise _resume_error(checkpoint, f"{name} must stay {values[0]}, got {values[1]}: {reason}")
    config: Any = getattr(model, "config", None)
    found = _class_names(_read(checkpoint, "config.json").get("id2label"))
    expected = _class_names(getattr(config, "id2label", None))
    if difference := find_class_difference(found, expected):
        raise _resume_error(checkpoint, f"its classes and those of the dataset differ: {difference}")
    _check_weights(checkpoint, WEIGHTS, model, "; weights in other formats might run code and are not read")
    if getattr(args, "ema_decay", 0):
        _check_weights(checkpoint, EMA_FILE, model, ": it was saved without ema_decay")
    for path in sorted(checkpoint.iterdir()):
        if path.suffix in PICKLED:
            _check_readable(checkpoint, path)


def read_training_arguments(checkpoint: Path) -> dict[str, Any]:
    """Return all arguments of the training that saved a checkpoint. Raises `ValueError` if they cannot be read."""
    return _read(checkpoint, TRAINING_ARGS_JSON)


def _resume_error(checkpoint: Path, reason: str) -> ValueError:
    return ValueError(f"the checkpoint {checkpoint} cannot be resumed: {reason}")


def _read(checkpoint: Path, name: str) -> dict[str, Any]:
    try:
        return read_json(checkpoint / name)
    except (OSError, ValueError) as error:
        raise _resume_error(checkpoint, f"{name} cannot be read: {one_line(error)}") from error


def _class_names(labels: dict[Any, str] | None) -> list[str]:
    """Return the names in an `id2label`, whose keys are numbers, or texts in a file."""
    return [labels[key] for key in sorted(labels, key=int)] if labels else []


def _check_weights(checkpoint: Path, name: str, model: nn.Module, if_missing: str) -> None:
    if not (checkpoint / name).is_file():
        raise _resume_error(checkpoint, f"it has no {name}{if_missing}")
    try:
        with safe_open(checkpoint / name, "pt") as file:
            saved = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 (it is no dict)
    except SafetensorError as error:
        raise _resume_error(checkpoint, f"{name} cannot be read: {one_line(error)}") from error
    expected = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    for key in [*expected, *saved]:
        if expected.get(key) != saved.get(key):
            raise _resume_error(checkpoint, f"it belongs to another model: {key} differs")


def _check_readable(checkpoint: Path, path: Path) -> None:
    """Check a file that transformers will unpickle, which it does only for tensors and plain values."""
    try:
        with safe_globals():  # the random states hold NumPy arrays
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        reason = f"{path.name} holds more than tensors and numbers, which might run code and was not read"
        raise _resume_error(checkpoint, reason) from error
    except (OSError, EOFError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise _resume_error(checkpoint, f"{path.name} cannot be read: {one_line(error)}") from error


# Restore the state


def has_ended(checkpoint: Path, planned: int) -> bool:
    """Whether the run had ended at a checkpoint: after the planned steps, or stopped early."""
    progress = read_progress(checkpoint)
    return progress.step >= planned or (progress.stopped and progress.step < progress.max_steps)


def train_metrics_file(process: int | str) -> str:
    """Return the name of the file in a checkpoint with the training metrics of a process."""
    return f"train_metrics_{process}.json"


def saved_train_metrics(checkpoint: Path, args: TrainingArguments) -> dict[str, Any]:
    """Return this process's training metrics; if the number of processes changed, only those of all processes."""
    if len(list(checkpoint.glob(train_metrics_file("*")))) == args.world_size:
        return _read(checkpoint, train_metrics_file(args.process_index))
    if is_rank_0():
        logger.warning(
            "Resumed with another number of processes: the result will differ from that of an uninterrupted run"
        )
    metrics = _read(checkpoint, train_metrics_file(0))
    return {name: value for name, value in metrics.items() if name.endswith("_in_all")}


class ResumedCallback(TrainerCallback):
    """
    Corrects the path of the best checkpoint, if the run was moved, the numbers of steps between evaluations, saves and
    logs, and the memory format of the moments. A run that is resumed in another folder gets its checkpoints there, from
    which it can be resumed again.
    """

    priority: ClassVar[int] = 70  # before others read the path of the best checkpoint

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        best = decide_on_rank_0(lambda: self._bring(args))
        state.best_model_checkpoint = None if best is None else str(best)
        # The Trainer would go on with the `eval_steps`, `save_steps` and `logging_steps` of the checkpoint.
        state.compute_steps(args, state.max_steps)
        optimizer: torch.optim.Optimizer | None = kwargs.get("optimizer")
        if optimizer is None:
            return
        # Fused optimizers combine weights and moments by their position in memory.
        for weights, moments in optimizer.state.items():
            for name, value in moments.items():
                if torch.is_tensor(value) and value.shape == weights.shape and value.stride() != weights.stride():
                    moments[name] = torch.empty_like(weights, dtype=value.dtype).copy_(value)

    def _bring(self, args: TrainingArguments) -> Path | None:
        """Copy the checkpoint, and the best one up to it, into the run's folder. Return where the best one is."""
        folder, best = args.output_dir or ".", read_progress(self.checkpoint).best
        if best is not None and not best.is_dir():
            best = None
        if os.path.realpath(folder) == os.path.realpath(self.checkpoint.parent):
            return best
        copy = copy_checkpoint(self.checkpoint, folder)
        if best is None:
            return None
        return copy if best == self.checkpoint else copy_checkpoint(best, folder)
