"""Stage a run for the Hub: copy what is pushed into a folder, without private paths and tokens."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..documents import read_json, write_json
from ..errors import one_line
from ..reporting.card import model_card, write_run_files
from ..runs.files import CARD, METRICS_JSON, MODEL_FILES, PUSHED_FILES, RUN_FILES, RUN_JSON, TRAINING_ARGS_JSON, WEIGHTS
from ..runs.folder import RunFolder
from ..runs.history import History
from ..runs.metrics import RunMetrics
from ..runs.record import RunRecord
from ..runs.redaction import redact

_NEEDED = ("config.json", "preprocessor_config.json", CARD, METRICS_JSON, RUN_JSON)


def list_unpushed_files(run_folder: str | Path) -> list[str]:
    """Return the sorted names in a run's folder that are not pushed because training did not write them."""
    own = _own_files(run_folder, RUN_FILES)
    paths = [path for path in Path(run_folder).iterdir() if not path.name.startswith((".", "checkpoint-"))]
    return sorted(f"{path.name} (a link)" if path.is_symlink() else path.name for path in paths if path not in own)


def stage_run(run_folder: str | Path, repo_id: str, folder: str | Path) -> str:
    """
    Stage a finished run in an empty folder: the files that training writes, but no links, which may lead anywhere.
    Return the run's id. Raises `ValueError` if the run is not finished, or a file of it is damaged. `repo_id` is a full
    name.
    """
    run_folder, folder = Path(run_folder), Path(folder)
    own = _own_files(run_folder, PUSHED_FILES)
    weights = [path for path in own if path.suffix == ".safetensors"]
    missing = [name for name in _NEEDED if run_folder / name not in own]
    if not weights:
        missing.append(WEIGHTS)
    if missing:
        raise ValueError(f"{run_folder} is not the folder of a finished run: it lacks {', '.join(missing)}")
    for path in weights:
        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:  # it may be a pickle, or end in the middle
            raise ValueError(f"{path} holds no weights: {one_line(error)}") from error
    try:
        card = (run_folder / CARD).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{run_folder / CARD} is no UTF-8 text: {error}") from error
    for path in own:
        shutil.copy(path, folder)
    record, metrics = RunFolder(run_folder).read_record(), RunFolder(run_folder).read_metrics()
    written, pushed = (str(model_card(each, metrics)) for each in (record, record.with_path(repo_id)))
    path = re.escape(record.redacted().model.path)
    # A card that somebody edited, or that a former version wrote, stays, but for the path in the code that loads it.
    edited = re.sub(rf'((?:model=|from_pretrained\()"){path}"', rf'\g<1>{repo_id}"', card)
    (folder / CARD).write_text(pushed if card == written else edited, encoding="utf-8")
    _redact_files(folder)
    return record.id or _digest(record)


def _digest(record: RunRecord) -> str:
    """Return what identifies the run of a record without an id, which former versions wrote."""
    return hashlib.sha256(json.dumps(record.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def kept_card_note(run_folder: str | Path) -> str:
    """Return the line that reports a card which others changed on the Hub, so that it was not pushed."""
    return (
        f"The card on the Hub, which others have changed, stays: delete it there and push again to replace it by "
        f"{Path(run_folder, CARD)}"
    )


def stage_checkpoint(
    checkpoint: Path,
    repo_id: str,
    folder: Path,
    record: RunRecord,
    metrics: RunMetrics,
    history: History,
    weights: str = WEIGHTS,
) -> None:
    """Stage the model of a checkpoint in an empty folder, with the results of its unfinished run so far."""
    for path in _own_files(checkpoint, (*MODEL_FILES, TRAINING_ARGS_JSON)):
        shutil.copy(path, folder)
    shutil.copy(Path(checkpoint, weights), folder / WEIGHTS)
    write_run_files(folder, record.with_path(repo_id), metrics, history)
    _redact_files(folder)


def _own_files(folder: str | Path, patterns: Iterable[str]) -> list[Path]:
    paths = {path for pattern in patterns for path in Path(folder).glob(pattern)}
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def _redact_files(folder: Path) -> None:
    """Redact the staged files that name folders of this machine."""
    for path in (folder / RUN_JSON, folder / TRAINING_ARGS_JSON):
        if path.is_file():
            try:
                content = read_json(path)
            except ValueError as error:
                raise ValueError(f"{path.name}: {error}") from error
            write_json(redact(content), path)
