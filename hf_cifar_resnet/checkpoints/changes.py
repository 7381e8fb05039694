"""What changed between a run and its resumption: arguments, and the images that its scores are of."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.arguments import FORMER_POLICIES
from ..processes import decide_on_rank_0
from ..runs.files import find_run_record
from ..runs.record import RunRecord

logger = logging.getLogger(__name__)

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
                value = FORMER_POLICIES.get(str(value), value)
            if value != now[name]:
                changed[name] = [*changed.get(name, [value]), now[name]]
    return dict(sorted(changed.items()))


def continue_record(record: RunRecord, checkpoint: Path) -> RunRecord:
    """
    Return the record of a run that resumes from a checkpoint: with that run's id, and what changed since. All processes
    call this. Raises `ValueError` if the run was on other data.
    """
    if reason := decide_on_rank_0(lambda: find_dataset_difference(record, checkpoint)):
        raise ValueError(f"the checkpoint {checkpoint} cannot be resumed: {reason}")
    changed = changed_arguments(record, checkpoint)
    return replace(record, id=run_id(checkpoint) or record.id, changed_arguments=changed)


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
