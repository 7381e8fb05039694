"""What may change between a run and its resumption, and what would mix two runs."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..processes import decide_on_rank_0
from ..runs.arguments import comparable
from ..runs.files import find_run_record, list_checkpoints, step_of
from ..runs.record import RunRecord
from ..runs.redaction import redact
from . import resume
from .resume import TrainingProgress, read_progress
from .save import is_complete

# Arguments that a resumed run has to keep, and why. All others may change: they apply from the checkpoint on, and the
# schedule is that of the new arguments.
_OTHER_STEPS = "an epoch would have another number of steps than those that are done"
_OTHER_SPLIT = "images that were trained on would be scored, or the other way round"
_OTHER_IMAGES = "the best score so far is of other images"
_OTHER_NORMALIZATION = "the model knows images that are normalized otherwise"
FIXED = {
    **resume.FIXED,
    "max_train_samples": _OTHER_STEPS,
    "validation_fraction": _OTHER_SPLIT,
    "split_seed": _OTHER_SPLIT,
    "eval_split": _OTHER_IMAGES,
    "max_eval_samples": _OTHER_IMAGES,
    "image_size": _OTHER_IMAGES,
    "image_mean": _OTHER_NORMALIZATION,
    "image_std": _OTHER_NORMALIZATION,
}
# Those that decide how long a run is.
_LENGTH = ("num_train_epochs", "max_steps")
# Those that have an effect even if no step is left to train.
_NEEDS_NO_STEP = {"load_best_model_at_end"}
# Those that nobody may have changed, since they follow from others or from the machine.
_DERIVED = {"scaled_learning_rate", "precision"}

logger: logging.Logger = logging.getLogger(__name__)


def continue_record(record: RunRecord, checkpoint: Path, folder: str | Path) -> RunRecord:
    """
    Return the record of a run that resumes from a checkpoint: with the id of the run before, and what changed since.
    All processes call this.

    Args:
        record: of the run as its arguments are now.
        checkpoint: to resume from; the record of the run before is beside it.
        folder: of the resumed run.

    Raises:
        `ValueError`: if the run before was on other data, or with an argument that a resumed run has to keep, if it has
        ended and the changes would have no effect, or if `folder` has later checkpoints with other arguments.
    """
    before = decide_on_rank_0(lambda: _read_run_record(checkpoint, record.arguments))
    if before is None:
        return record
    decide_on_rank_0(lambda: _check(before, record, checkpoint, Path(folder)))
    changed = changed_arguments(before, record)
    return replace(record, id=before.id or record.id, changed_arguments=changed)


def changed_arguments(before: RunRecord, record: RunRecord) -> dict[str, list[Any]]:
    """Return {argument: its values, oldest first} of all that changed since the run began."""
    changed = {name: list(values) for name, values in before.changed_arguments.items()}
    for name, (old, new) in _find_changes(before, record).items():
        changed[name] = [*changed.get(name, [old]), new]
    return dict(sorted(changed.items()))


def _find_changes(before: RunRecord, record: RunRecord) -> dict[str, tuple[Any, Any]]:
    """Return {argument: its value before, its value now} of those that differ."""
    old, new = _all_arguments(before), _all_arguments(record)
    # A path may have been redacted, and a folder may have been moved.
    names = [name for name in sorted(old.keys() & new.keys()) if redact(old[name]) != redact(new[name])]
    return {name: (old[name], new[name]) for name in names}


def _all_arguments(record: RunRecord) -> dict[str, Any]:
    """Return all arguments in a record as JSON has them, in the spelling in which equal ones are equal."""
    sections: list[Mapping[str, Any]] = [record.arguments, record.model_arguments, record.data_arguments]
    found = {name: value for section in sections for name, value in section.items()}
    found["precision"] = record.precision
    return comparable(json.loads(json.dumps(found)))


def _read_run_record(checkpoint: Path, names: Iterable[str]) -> RunRecord | None:
    """
    Return the record of a checkpoint's run; None if there is none, or one that training did not write. Those of the
    arguments `names` that the record of a former version has not got are as the checkpoint has them.
    """
    path = find_run_record(checkpoint)
    if path is None:
        return None
    try:
        record = RunRecord.read(path)
    except (OSError, ValueError) as error:
        logger.warning("the run is resumed without its record: %s", error)
        return None
    saved = resume.read_training_arguments(checkpoint)
    missing = {name: saved[name] for name in names if name in saved and name not in record.arguments}
    return replace(record, arguments={**record.arguments, **missing})


def _check(before: RunRecord, record: RunRecord, checkpoint: Path, folder: Path) -> None:
    changes = _find_changes(before, record)
    fixed = _find_fixed(before, record, changes)
    reason = fixed or _find_other_data(before, record)
    if reason is None and changes.keys() - _NEEDS_NO_STEP - _DERIVED:
        reason = _find_no_effect(before, record, changes, read_progress(checkpoint))
    if reason is not None:
        raise ValueError(f"the checkpoint {checkpoint} cannot be resumed: {reason}")
    later = [each for each in list_checkpoints(folder) if (step_of(each) or 0) > (step_of(checkpoint) or 0)]
    complete = [each for each in later if is_complete(each)]
    if changes and complete and folder.resolve() == checkpoint.parent.resolve():
        raise ValueError(
            f"output_dir {folder} has later checkpoints than {checkpoint.name}, such as {complete[-1].name}, which "
            f"would be mixed with those of another {next(iter(changes))}: choose another folder, or delete them"
        )


def _find_other_data(before: RunRecord, record: RunRecord) -> str | None:
    """Return what shows that the run before was on other data, or None."""
    then, now = before.dataset, record.dataset
    same_images = then.scored_images == now.scored_images is not None
    if then.name != now.name and not same_images:  # with the same images it was moved
        return f"its run was on the dataset {then.name}, and this one is on {now.name}"
    if then.scored_images is not None and not same_images:
        split = record.data_arguments["eval_split"]
        return f"its run was evaluated on other images: the {split} split of {now.name} changed"
    if then.train != now.train:
        return f"its run was trained on {then.train:,} images, and there are {now.train:,} now: {_OTHER_STEPS}"
    return None


def _find_fixed(before: RunRecord, record: RunRecord, changes: Mapping[str, tuple[Any, Any]]) -> str | None:
    """Return which argument changed that a resumed run has to keep, or None."""
    then, now = before.dataset, record.dataset
    same_images = then.scored_images == now.scored_images is not None
    if then.name != now.name and not same_images:  # another dataset, which explains all else
        return None
    harmless = {"max_train_samples"} if then.train == now.train else set()
    if same_images:
        harmless.add("max_eval_samples")
    averages = changes.get("ema_decay")
    if averages is not None and not all(averages):
        return f"ema_decay must stay {averages[0]}, got {averages[1]}: the best score so far is of the other weights"
    for name, reason in FIXED.items():
        if name in changes and name not in harmless:
            old, new = changes[name]
            return f"{name} must stay {old}, got {new}: {reason}"
    return None


def _find_no_effect(
    before: RunRecord, record: RunRecord, changes: Mapping[str, tuple[Any, Any]], progress: TrainingProgress
) -> str | None:
    """Return why the run would end at this checkpoint whatever changed, or None."""
    given = ", ".join(f"{name} {new}" for name, (_, new) in changes.items() if name not in _DERIVED)
    if progress.stopped and progress.step < progress.max_steps:
        return f"the run was stopped early there, so that {given} would change nothing: leave it out"
    planned = _planned_steps(before, record, progress)
    if planned <= progress.step:
        return f"the run would end there, at step {progress.step}, so that {given} would change nothing: leave it out"
    return None


def _planned_steps(before: RunRecord, record: RunRecord, progress: TrainingProgress) -> float:
    """Return how many steps the run will have, whose epochs have as many steps as before."""
    (epochs, steps), (epochs_before, steps_before) = (
        [each.arguments.get(name, 0) or 0 for name in _LENGTH] for each in (record, before)
    )
    if steps > 0:
        return steps
    if steps_before > 0 or not epochs_before:
        return float("inf")  # not known here
    return progress.max_steps * epochs / epochs_before
