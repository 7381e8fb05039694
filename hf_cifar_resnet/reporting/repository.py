"""A run's folder as a repository on the Hub: complete in itself, and without what is nobody else's business."""

import contextlib
import os
import shutil
from pathlib import Path

from jinja2 import TemplateError

from ..errors import UserError
from . import records
from .card import model_card
from .results import CARD, write_results

WEIGHTS, TRAINING_ARGS_JSON = "model.safetensors", "training_args.json"
_NEEDED = ("config.json", "preprocessor_config.json", CARD, records.METRICS_JSON, records.RUN_JSON)
# These name folders of the machine they were written on.
_PRIVATE = (records.RUN_JSON, TRAINING_ARGS_JSON)


def stage_run(run_folder, repo_id, folder):
    """
    A finished run as the files of a repository, in an empty folder.

    Raises:
        UserError: if the run is not finished.
    """
    run_folder, folder = Path(run_folder), Path(folder)
    missing = [name for name in _NEEDED if not (run_folder / name).is_file()]
    if not list(run_folder.glob("*.safetensors")):
        missing.append(WEIGHTS)
    if missing:
        raise UserError(f"{run_folder} is not the folder of a finished run: it lacks {', '.join(missing)}")
    for pattern in ("*.safetensors", "*.json", "*.py", "*.png", "*.md"):
        _link(run_folder.glob(pattern), folder)
    try:
        run, metrics = (records.read_json(run_folder / name) for name in (records.RUN_JSON, records.METRICS_JSON))
        written, pushed = (str(model_card(each, metrics)) for each in (run, _at(repo_id, run)))
    except (LookupError, TypeError, AttributeError, ValueError, TemplateError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(
            f"{records.RUN_JSON} or {records.METRICS_JSON} of {run_folder} is not as training wrote it: {reason}"
        ) from error
    # A card that somebody has edited stays as it is.
    if (run_folder / CARD).read_text(encoding="utf-8") == written:
        _replace(folder / CARD, pushed)
    _publish_records(folder)


def stage_checkpoint(checkpoint, repo_id, folder, run, metrics, rows, weights=WEIGHTS):
    """The same of a run that still goes on: the model of a checkpoint, with the results so far."""
    folder = Path(folder)
    _link([Path(checkpoint, weights)], folder, WEIGHTS)
    for pattern in ("config.json", "preprocessor_config.json", TRAINING_ARGS_JSON, "*.py"):
        _link(Path(checkpoint).glob(pattern), folder)
    write_results(folder, _at(repo_id, run), metrics, rows)
    _publish_records(folder)


def _at(repo_id, run):
    return run | {"model": run["model"] | {"path": repo_id}}


def _publish_records(folder):
    for name in _PRIVATE:
        if (folder / name).is_file():
            content = records.public(records.read_json(folder / name))
            (folder / name).unlink()
            records.write_json(content, folder / name)


def _link(files, folder, name=None):
    """Costs no time for large files, and the Trainer may delete its own meanwhile."""
    for file in files:
        with contextlib.suppress(OSError):
            os.link(file, folder / (name or file.name))
            continue
        shutil.copy(file, folder / (name or file.name))


def _replace(path, text):
    # Not in place: it may be a second name of the run's own file.
    path.unlink()
    path.write_text(text, encoding="utf-8")
