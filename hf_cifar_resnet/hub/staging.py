"""Stage a run for the Hub: copy what is pushed into a folder, without private paths and tokens."""

import contextlib
import os
import shutil
from pathlib import Path

from jinja2 import TemplateError
from safetensors import SafetensorError, safe_open

from ..documents import read_json
from ..errors import UserError
from ..reporting import run_files, run_record
from ..reporting.card import model_card, write_results
from ..reporting.run_files import (
    CARD,
    MODEL_FILES,
    PUSHED_FILES,
    TRAINING_ARGS_JSON,
    WEIGHTS,
    is_of_run,
    matches,
)

_NEEDED = ("config.json", "preprocessor_config.json", CARD, run_files.METRICS_JSON, run_files.RUN_JSON)
# These name folders of the machine they were written on.
_PRIVATE = (run_files.RUN_JSON, TRAINING_ARGS_JSON)


def left_out(run_folder):
    """Names of what lies in a run's folder and is not pushed, because training did not write it; sorted."""
    paths = [path for path in Path(run_folder).iterdir() if not path.name.startswith((".", "checkpoint-"))]
    foreign = [path for path in paths if path.is_symlink() or not path.is_file() or not is_of_run(path.name)]
    return sorted(f"{path.name} (a link)" if path.is_symlink() else path.name for path in foreign)


def stage_run(run_folder, repo_id, folder):
    """
    A finished run as the files of a repository, in an empty folder: those that training writes, and no links, whose
    content may be anybody's.

    Raises:
        UserError: if the run is not finished.
    """
    run_folder, folder = Path(run_folder), Path(folder)
    own = _own_files(run_folder, PUSHED_FILES)
    names = {path.name for path in own}
    missing = [name for name in _NEEDED if name not in names]
    if not any(name.endswith(".safetensors") for name in names):
        missing.append(WEIGHTS)
    if missing:
        raise UserError(f"{run_folder} is not the folder of a finished run: it lacks {', '.join(missing)}")
    for path in own:
        _check_weights(path)
    try:
        card = (run_folder / CARD).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{run_folder / CARD} is no UTF-8 text: {error.reason} at byte {error.start}") from error
    _link(own, folder)
    try:
        run, metrics = (read_json(run_folder / name) for name in (run_files.RUN_JSON, run_files.METRICS_JSON))
        written, pushed = (str(model_card(each, metrics)) for each in (run, _at(repo_id, run)))
    except (LookupError, TypeError, AttributeError, ValueError, TemplateError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(
            f"{run_files.RUN_JSON} or {run_files.METRICS_JSON} of {run_folder} is not as training wrote it: {reason}"
        ) from error
    # A card that somebody has edited stays as it is.
    if card == written:
        _replace(folder / CARD, pushed)
    _publish_records(folder)


def stage_checkpoint(checkpoint, repo_id, folder, run, metrics, rows, weights=WEIGHTS):
    """The same of a run that still goes on: the model of a checkpoint, with the results so far."""
    folder = Path(folder)
    _link([Path(checkpoint, weights)], folder, WEIGHTS)
    _link(_own_files(checkpoint, (*MODEL_FILES, TRAINING_ARGS_JSON)), folder)
    write_results(folder, _at(repo_id, run), metrics, rows)
    _publish_records(folder)


def _own_files(folder, patterns):
    paths = sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []
    return [path for path in paths if matches(path.name, patterns) and path.is_file() and not path.is_symlink()]


def _check_weights(path):
    """Raises [`UserError`] for a file of weights that is none, such as a pickle of that name."""
    if path.suffix != ".safetensors":
        return
    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise UserError(f"{path} holds no weights: {error}") from error


def _at(repo_id, run):
    return run | {"model": run["model"] | {"path": repo_id}}


def _publish_records(folder):
    for name in _PRIVATE:
        if (folder / name).is_file():
            try:
                content = run_record.redact(read_json(folder / name))
            except ValueError as error:
                raise UserError(f"{name}: {error}") from error
            (folder / name).unlink()
            run_record.write_json(content, folder / name)


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
