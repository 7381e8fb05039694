"""Resume a run: find its last complete checkpoint, check that it fits, and restore what transformers leaves out."""

import contextlib
import json
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback

from ..documents import read_json
from ..errors import UserError
from ..reporting import run_files
from ..reporting.run_files import TRAINING_ARGS_JSON, WEIGHTS, list_checkpoints
from .save import EMA_FILE, TRAINER_STATE, find_damage

SHOWN = 3  # classes that differ


# Which one


def read_state(checkpoint):
    """The Trainer's state in a checkpoint, a dict. Raises as [`read_json`] does."""
    return read_json(Path(checkpoint, TRAINER_STATE))


def find_best(checkpoint):
    """The best checkpoint of a run up to this one, which lies beside it wherever the two were moved; or None."""
    best = read_state(checkpoint).get("best_model_checkpoint")
    return checkpoint.parent / Path(best).name if best else None


def unusable(checkpoint, needs_best):
    """
    Why training cannot resume from a checkpoint, in a few words, or None where it can.

    Args:
        needs_best (`bool`): whether the run ends with the best model, which then has to be there too.
    """
    if reason := find_damage(checkpoint):
        return reason
    try:
        best = find_best(checkpoint)
    except (OSError, ValueError) as error:
        return f"{TRAINER_STATE} cannot be read: {error}"
    reason = find_damage(best) if needs_best and best not in (None, checkpoint) else None
    return reason and f"the best model so far, {best.name} beside it, is not whole: {reason}"


def find_resumable(given, run, needs_best, say=None):
    """
    The checkpoint to resume from: the one `given`, or for True the last one of a run, see [`newest`].

    Raises:
        UserError: if there is none, or it is damaged.
    """
    if given is True:
        checkpoint = find_last_usable(run, needs_best, say)
        if checkpoint is None:
            raise UserError(f"{run} cannot be resumed: there is no whole checkpoint")
        return checkpoint
    checkpoint = Path(given)
    if reason := unusable(checkpoint, needs_best):
        raise refused(checkpoint, reason)
    return checkpoint


def refused(checkpoint, reason):
    return UserError(f"the checkpoint {checkpoint} cannot be resumed: {reason}")


def find_last_usable(run, needs_best, say=None):
    """
    The last checkpoint of a run to resume from, or None.

    Args:
        say: called with one line for each later one that is passed over.
    """
    for _, checkpoint in sorted(list_checkpoints(run).items(), reverse=True):
        reason = unusable(checkpoint, needs_best)
        if reason is None:
            return checkpoint
        if say:
            say(f"{checkpoint} is passed over: {reason}")
    return None


# Whether it fits


def check_fits(checkpoint, model, args):
    """
    Raises:
        UserError: for a checkpoint that a training with this model and these arguments cannot resume from.
    """
    with reading(checkpoint):
        if reason := _misfit(checkpoint, model, args):
            raise refused(checkpoint, reason)


def _misfit(checkpoint, model, args):
    """What shows that a checkpoint is not one of this training, or None."""
    if not (checkpoint / "scheduler.pt").is_file():
        # The Trainer would begin with new moments and the first learning rate.
        return "it was saved with --save_only_model, without optimizer and schedule"
    optim = read_json(checkpoint / TRAINING_ARGS_JSON)["optim"]
    if optim != args.optim:
        return f"it was trained with --optim {optim}, not {args.optim.value}, and holds the state of that"
    return (
        _other_classes(checkpoint, model.config.id2label)
        or _other_weights(checkpoint / WEIGHTS, model)
        or (args.ema_decay and _other_weights(checkpoint / EMA_FILE, model))
        or None
    )


def _other_classes(checkpoint, id2label):
    """Which classes a checkpoint does not share with a model."""
    there = read_json(checkpoint / "config.json").get("id2label") or {}
    there = {int(number): name for number, name in there.items()}
    differ = [
        f"{number} is {there.get(number, 'missing')} there and {id2label.get(number, 'missing')} here"
        for number in sorted(there.keys() | id2label.keys())
        if there.get(number) != id2label.get(number)
    ]
    more = f" and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
    return f"it has other classes: {', '.join(differ[:SHOWN])}{more}" if differ else None


def _other_weights(path, model):
    """Which tensor does not have the same name and shape in a file and in a model."""
    if not path.is_file():
        if path.name == EMA_FILE:
            return f"it has no averaged weights ({EMA_FILE}): it was saved without --ema_decay"
        return f"it has no {path.name}; weights in other formats might run code and are not read"
    with safe_open(path, "pt") as file:
        there = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (it is no dict)
    here = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    differ = [name for name in [*here, *there] if here.get(name) != there.get(name)]
    return f"it is one of another model, as {differ[0]} shows" if differ else None


@contextmanager
def reading(checkpoint, is_over=lambda: False):
    """
    What cannot be read within is reported in one line. transformers unpickles plain values alone.

    Args:
        is_over: whether all has been read but random states, and other errors are no longer those of reading.
    """
    try:
        yield
    except UserError:
        raise
    except UnpicklingError as error:
        reason = "a file of it holds something else than tensors and numbers, which might run code and was not read"
        raise refused(checkpoint, reason) from error
    except (OSError, EOFError, LookupError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        if is_over():
            raise
        raise refused(checkpoint, " ".join(str(error).split()) or type(error).__name__) from error


# What is resumed


def has_ended(checkpoint, planned):
    """Whether the run had ended there: early, or after the planned steps."""
    state = read_state(checkpoint)
    stopped = state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"]
    return state["global_step"] >= planned or (stopped and state["global_step"] < state["max_steps"])


def figures_file(process):
    return f"figures_{process}.json"


def saved_figures(checkpoint, args):
    """What this process had counted; of another number of processes, what they had counted until the last log."""
    files = [checkpoint / figures_file(number) for number in range(args.world_size + 1)]
    if [path.is_file() for path in files] == [True] * args.world_size + [False]:
        return read_json(files[args.process_index])
    if args.process_index == 0:
        print("Resumed with another number of processes: not to the same bits")
    return {name: value for name, value in read_json(files[0]).items() if name.endswith("_in_all")}


class ResumedCallback(TrainerCallback):
    """
    Finds the best checkpoint beside the one that is resumed, since a run may have moved, and gives the optimizer's
    moments the memory format of the weights, which may be another one on another machine.
    """

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
        best = find_best(self.checkpoint)
        state.best_model_checkpoint = str(best) if best is not None and best.is_dir() else None
        if optimizer is not None:
            _lay_out_moments(optimizer)


def _lay_out_moments(optimizer):
    # Fused optimizers pair what lies at the same place.
    for weights, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == weights.shape and value.stride() != weights.stride():
                state[name] = torch.empty_like(weights, dtype=value.dtype).copy_(value)


# The arguments that say which images of a dataset a run is scored on.
_SLICE = ("eval_split", "validation_fraction", "split_seed", "max_eval_samples", "image_size")


def changed_arguments(run, checkpoint):
    """
    What a run that goes on from a checkpoint does otherwise than before, as far as the `run.json` beside that tells.

    Returns:
        {argument: list of its values, the first first}, with those that had been changed before.
    """
    before = _run_of(checkpoint)
    changed = {name: values for name, values in _section(before, "changed_arguments").items() if type(values) is list}
    for section in ("arguments", "model_arguments", "data_arguments"):
        then, now = _section(before, section), json.loads(json.dumps(run[section]))
        for name in now.keys() & then.keys():
            if then[name] != now[name]:
                changed[name] = [*changed.get(name, [then[name]]), now[name]]
    return dict(sorted(changed.items()))


def other_dataset(run, checkpoint):
    """
    What shows that a checkpoint is of a run on another dataset, in a few words, so that its scores would be no scores
    of this run; None where the `run.json` beside it shows nothing.
    """
    before = _run_of(checkpoint)
    then, now = _section(before, "dataset"), run["dataset"]
    slices = [[_section(record, "data_arguments").get(name) for name in _SLICE] for record in (before, run)]
    if "scored_images" in then and slices[0] == slices[1]:
        split = run["data_arguments"]["eval_split"]
        same = then["scored_images"] == now["scored_images"]
        return None if same else f"its run was scored on other images than the {split} split of {now['name']} has here"
    if then.get("name", now["name"]) != now["name"]:
        return f"its run was on the dataset {then['name']}, and this one is on {now['name']}"
    return None


def _run_of(checkpoint):
    """The `run.json` beside a checkpoint, or in one that was fetched from the Hub; or {}."""
    for folder in (Path(checkpoint).parent, Path(checkpoint)):
        with contextlib.suppress(OSError, ValueError):
            return read_json(folder / run_files.RUN_JSON)
    return {}


def _section(record, name):
    return record[name] if isinstance(record.get(name), dict) else {}
