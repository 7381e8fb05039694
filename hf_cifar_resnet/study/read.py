"""Read the runs of a study with their metrics, and group them by what is compared."""

import json
import math
from collections import defaultdict

from ..documents import read_json
from ..errors import UserError, explained
from ..runs.files import METRICS_JSON, RUN_JSON, STUDY_JSON
from ..runs.folder import RunFolder

# In a study's folder: the scores of the runs of each variant as an ensemble.
ENSEMBLES_JSON = "ensembles.json"


@explained("a file of the study is damaged", LookupError, TypeError, ValueError)
def read_study(folder):
    """
    Return the finished runs of a folder with their records, by variant and seed, and its unfinished ones.

    Each run is a dict with `folder`, `schedule`, `seed`, `varied` (arguments), `without` (the ablated part), `tuned`
    (arguments that were chosen on validation) and `tuning` (whether it only serves that choice). A folder without
    `study.json` holds single runs, which are compared by their schedules.
    """
    study = folder / STUDY_JSON
    if study.is_file():
        runs = read_json(study)["runs"]
    else:
        runs = [_single_run(path) for path in sorted(folder.glob(f"*/{RUN_JSON}"))]
    finished, unfinished = [], []
    for run in runs:
        place = folder / run["folder"]
        if (place / METRICS_JSON).is_file():
            own = RunFolder(place)
            records = {
                "run": own.read_record().to_dict(),
                "metrics": own.read_metrics().to_dict(),
                "history": own.read_history().to_dicts(),
            }
            finished.append(run | records)
        else:
            unfinished.append(run)
    return sorted(finished, key=_rank), unfinished


def _rank(run):
    varied = [(as_number(value), value) for value in run["varied"].values()]
    return run["schedule"], run["without"] or "", varied, run["seed"]


def as_number(value):
    """Return the number that a text names; infinity if it names none, so that it comes last."""
    try:
        return float(value)
    except ValueError:
        return math.inf


def _single_run(path):
    arguments = read_json(path)["arguments"]
    alone = {"varied": {}, "without": None, "tuned": {}, "tuning": False}
    return {"folder": path.parent.name, "schedule": arguments["lr_scheduler_type"], "seed": arguments["seed"], **alone}


def variant_name(run, ablated=True):
    """Return what is compared: schedule, varied arguments, and the ablated part unless `ablated` is False."""
    without = [f"without {run['without']}"] if ablated and run["without"] else []
    return ", ".join([run["schedule"], *without, *(f"{name} {value}" for name, value in run["varied"].items())])


def group_runs(runs):
    """Group runs by variant. Raises [`UserError`] for two runs of one variant and seed, which are one result."""
    groups = defaultdict(dict)
    for run in runs:
        other = groups[variant_name(run)].setdefault(run["seed"], run)
        if other is not run:
            names = f"{other['folder']} and {run['folder']}"
            raise UserError(f"{names} have the same schedule and seed: move one of them to another folder")
    return {variant: list(members.values()) for variant, members in groups.items()}


def read_ensembles(folder):
    """Return the ensembles of a study: a list of dicts of `runs` (folders) and `test` (scores)."""
    path = folder / ENSEMBLES_JSON
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def test_top1(members):
    """Return the test top-1 accuracy, 0 to 1, of each run of a variant."""
    return [run["metrics"]["test"]["top1"] for run in members]


def selection_top1(members):
    """Return the top-1 accuracy, 0 to 1, of each run on the split that epochs were selected on, or else on test."""
    metrics = [run["metrics"] for run in members]
    return [(each[selection_split(each)] or {}).get("top1", 0.0) for each in metrics]


def selection_split(metrics):
    """Return the split on which a run selected its epoch; test for one that evaluated nothing before."""
    return "test" if metrics["selected_on"] == "none" else metrics["selected_on"]
