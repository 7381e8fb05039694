"""What changed between a run and its resumption: arguments, and the images that its scores are of."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..choices import RENAMED
from ..documents import read_json
from ..runs.files import find_run_record

# The arguments that decide which images of a dataset a run is scored on.
_SCORED_IMAGES = ("eval_split", "validation_fraction", "split_seed", "max_eval_samples", "image_size")


def changed_arguments(record: dict[str, Any], checkpoint: Path) -> dict[str, list[Any]]:
    """Return {argument: its values, oldest first} of all that changed since the run began, by its `run.json`."""
    before = _read_run_record(checkpoint)
    changed = dict(before.get("changed_arguments", {}))
    for section in ("arguments", "model_arguments", "data_arguments"):
        then, now = before.get(section, {}), json.loads(json.dumps(record[section]))
        for name in now.keys() & then.keys():
            value = then[name]
            if name == "augmentation":
                value = RENAMED["augmentation policy"].get(str(value), value)
            if value != now[name]:
                changed[name] = [*changed.get(name, [value]), now[name]]
    return dict(sorted(changed.items()))


def run_id(checkpoint: Path) -> str | None:
    """Return the id of the run of a checkpoint, by its `run.json`, or None."""
    return _read_run_record(checkpoint).get("id")


def find_dataset_difference(record: dict[str, Any], checkpoint: Path) -> str | None:
    """Return what shows that a checkpoint's run was on another dataset, and its scores not comparable; or None."""
    before = _read_run_record(checkpoint)
    then, now = before.get("dataset", {}), record["dataset"]
    chosen = [[each.get("data_arguments", {}).get(name) for name in _SCORED_IMAGES] for each in (before, record)]
    if "scored_images" in then and chosen[0] == chosen[1]:
        split = record["data_arguments"]["eval_split"]
        same = then["scored_images"] == now["scored_images"]
        return None if same else f"its run was evaluated on other images: the {split} split of {now['name']} changed"
    if then.get("name", now["name"]) != now["name"]:
        return f"its run was on the dataset {then['name']}, and this one is on {now['name']}"
    return None


def _read_run_record(checkpoint: Path) -> dict[str, Any]:
    """Read the id and the sections of the run's `run.json`; {} if there is none."""
    path = find_run_record(Path(checkpoint))
    with suppress(OSError, ValueError):  # one that training did not write
        found = read_json(path).items() if path else ()
        return {name: part for name, part in found if isinstance(part, str if name == "id" else dict)}
    return {}
