"""Resume a run: find its last complete checkpoint, check that it fits, and restore what transformers leaves out."""

import json
import logging
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback

from ..choices import RENAMED
from ..documents import read_json
from ..errors import UserError, one_line
from ..runs.files import TRAINING_ARGS_JSON, WEIGHTS, find_run_record, list_checkpoints
from ..runs.record import RunRecord, plain
from .load import find_class_difference
from .save import EMA_FILE, TRAINER_STATE, find_damage

logger = logging.getLogger(__name__)

LARGEST_STATE = 2**30  # bytes of a Trainer's state, which has some 300 for each log

# Find the checkpoint


def find_best(checkpoint):
    """Return the best checkpoint of a run up to this one, or None. It lies beside this one, wherever the run moved."""
    best = read_json(Path(checkpoint, TRAINER_STATE), LARGEST_STATE).get("best_model_checkpoint")
    return checkpoint.parent / Path(best).name if best else None


def reason_not_to_resume(checkpoint, needs_best):
    """Return why training cannot resume from a checkpoint, and from its best model if `needs_best`, or None."""
    if reason := find_damage(checkpoint):
        return reason
    try:
        best = find_best(checkpoint)
    except (OSError, ValueError) as error:
        return f"{TRAINER_STATE} cannot be read: {error}"
    reason = find_damage(best) if needs_best and best not in (None, checkpoint) else None
    return reason and f"the best model so far, {best.name} beside it, is not complete: {reason}"


def find_resumable(given, folder, needs_best, report=None):
    """Return the checkpoint `given`, or for True the last resumable one of a run. Raises [`UserError`]."""
    if given is not True:
        given = Path(given).expanduser()
        if reason := reason_not_to_resume(given, needs_best):
            raise resume_error(given, reason)
        return given
    checkpoint = find_last_resumable(folder, needs_best, report)
    if checkpoint is None:
        raise UserError(f"{folder} cannot be resumed: there is no complete checkpoint")
    return checkpoint


def resume_error(checkpoint, reason):
    return UserError(f"the checkpoint {checkpoint} cannot be resumed: {reason}")


def find_last_resumable(folder, needs_best, report=None):
    """Return the last checkpoint of a run to resume from, or None; `report` gets a line for each later, damaged one."""
    for checkpoint in reversed(list_checkpoints(folder)):
        reason = reason_not_to_resume(checkpoint, needs_best)
        if reason is None:
            return checkpoint
        if report:
            report(f"{checkpoint} is skipped: {reason}")
    return None


# Check that it fits


def check_fits(checkpoint, model, args):
    """Raise `ValueError` for a checkpoint that training with this model and these arguments cannot resume from."""
    if not (checkpoint / "scheduler.pt").is_file():
        # The Trainer would begin with new moments and the first learning rate.
        raise ValueError("it was saved with --save_only_model, without optimizer and schedule")
    optim = read_json(checkpoint / TRAINING_ARGS_JSON)["optim"]
    if optim != args.optim:
        raise ValueError(f"it was trained with --optim {optim}, not {plain(args.optim)}, and holds its state")
    names = read_json(checkpoint / "config.json").get("id2label") or {}
    names, wanted = ([labels[key] for key in sorted(labels, key=int)] for labels in (names, model.config.id2label))
    if difference := find_class_difference(names, wanted):
        raise ValueError(f"its classes and those of the dataset differ: {difference}")
    _check_weights(checkpoint / WEIGHTS, model, "; weights in other formats might run code and are not read")
    if args.ema_decay:
        _check_weights(checkpoint / EMA_FILE, model, ": it was saved without --ema_decay")


def _check_weights(path, model, if_missing):
    if not path.is_file():
        raise ValueError(f"it has no {path.name}{if_missing}")
    with safe_open(path, "pt") as file:
        saved = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (it is no dict)
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    if differ := [name for name in [*wanted, *saved] if wanted.get(name) != saved.get(name)]:
        raise ValueError(f"it belongs to another model: {differ[0]} differs")


@contextmanager
def reporting_read_errors(checkpoint, training_started):
    """Report a checkpoint that cannot be read in one line. Later errors, once training has started, are left alone."""
    try:
        yield
    except UserError:
        raise
    except UnpicklingError as error:  # transformers unpickles plain values alone
        reason = "one of its files holds more than tensors and numbers, which might run code and was not read"
        raise resume_error(checkpoint, reason) from error
    except (OSError, EOFError, LookupError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        if training_started():
            raise
        raise resume_error(checkpoint, one_line(error)) from error


# Restore the state


def has_ended(checkpoint, planned):
    """Whether the run had ended at a checkpoint: after the planned steps, or stopped early."""
    state = read_json(checkpoint / TRAINER_STATE, LARGEST_STATE)
    stopped = state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"]
    return state["global_step"] >= planned or (stopped and state["global_step"] < state["max_steps"])


def found_batch_size(checkpoint):
    """Return the images per device and step in a run up to a checkpoint, which `auto_find_batch_size` has found."""
    return read_json(checkpoint / TRAINER_STATE, LARGEST_STATE).get("train_batch_size")


def train_metrics_file(process):
    return f"train_metrics_{process}.json"


def saved_train_metrics(checkpoint, args):
    """Return this process's training metrics; if the number of processes changed, only those of all processes."""
    if len(list(checkpoint.glob(train_metrics_file("*")))) == args.world_size:
        return read_json(checkpoint / train_metrics_file(args.process_index))
    if args.process_index == 0:
        print("Resumed with another number of processes: the result will differ from that of an uninterrupted run")
    metrics = read_json(checkpoint / train_metrics_file(0))
    return {name: value for name, value in metrics.items() if name.endswith("_in_all")}


class ResumedCallback(TrainerCallback):
    """Correct the path of the best checkpoint, if the run was moved, and the memory format of the moments."""

    priority: ClassVar[int] = 70  # before others read the path of the best checkpoint

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
        best = find_best(self.checkpoint)
        state.best_model_checkpoint = str(best) if best is not None and best.is_dir() else None
        # Fused optimizers combine weights and moments by their position in memory.
        for weights, moments in optimizer.state.items() if optimizer is not None else ():
            for name, value in moments.items():
                if torch.is_tensor(value) and value.shape == weights.shape and value.stride() != weights.stride():
                    moments[name] = torch.empty_like(weights, dtype=value.dtype).copy_(value)


# Compare with the run before

# The arguments that decide which images of a dataset a run is scored on.
_SCORED_IMAGES = ("eval_split", "validation_fraction", "split_seed", "max_eval_samples", "image_size")


def changed_arguments(record: RunRecord, checkpoint: Path) -> dict[str, list[Any]]:
    """Return {argument: its values, oldest first} of all that changed since the run began, by its `run.json`."""
    before = _read_run_record(checkpoint)
    if before is None:
        return {}
    changed = {name: list(values) for name, values in before.changed_arguments.items()}
    for section in ("arguments", "model_arguments", "data_arguments"):
        then, now = getattr(before, section), json.loads(json.dumps(getattr(record, section)))
        for name in now.keys() & then.keys():
            value = then[name]
            if name == "augmentation":
                value = RENAMED["augmentation policy"].get(str(value), value)
            if value != now[name]:
                changed[name] = [*changed.get(name, [value]), now[name]]
    return dict(sorted(changed.items()))


def run_id(checkpoint: Path) -> str | None:
    """Return the id of the run of a checkpoint, by its `run.json`, or None."""
    before = _read_run_record(checkpoint)
    return None if before is None else before.id


def find_dataset_difference(record: RunRecord, checkpoint: Path) -> str | None:
    """Return what shows that a checkpoint's run was on another dataset, and its scores not comparable; or None."""
    before = _read_run_record(checkpoint)
    if before is None:
        return None
    then, now = before.dataset, record.dataset
    chosen = [[each.data_arguments.get(name) for name in _SCORED_IMAGES] for each in (before, record)]
    if then.scored_images is not None and chosen[0] == chosen[1]:
        if then.scored_images == now.scored_images:
            return None
        split = record.data_arguments["eval_split"]
        return f"its run was evaluated on other images: the {split} split of {now.name} changed"
    if then.name != now.name:
        return f"its run was on the dataset {then.name}, and this one is on {now.name}"
    return None


def _read_run_record(checkpoint: Path) -> RunRecord | None:
    """Return the record of a checkpoint's run; None if there is none, or one that training did not write."""
    path = find_run_record(Path(checkpoint))
    if path is None:
        return None
    try:
        return RunRecord.read(path)
    except (OSError, ValueError) as error:
        logger.warning(f"the run is resumed without its record: {error}")
        return None
