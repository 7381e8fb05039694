"""A checkpoint's full state without pickle: optimizer, schedule and random states as safetensors and JSON."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers.trainer_pt_utils import safe_globals

from ..documents import read_json, write_json
from ..errors import one_line
from ..runs.files import checkpoint_path, step_of
from ..runs.redaction import redact
from .resume import MAX_STATE, PICKLED
from .save import MANIFEST, TRAINER_STATE, write_manifest

_BEST = "best"
_STEP, _BEST_MODEL = "global_step", "best_model_checkpoint"  # keys of the Trainer's state


def write_pickle_free(checkpoint: Path, folder: Path, best: Path | None = None) -> None:
    """
    Write a checkpoint into a folder without a pickle, with the model of the checkpoint `best` if that is another.
    Raises `OSError` if a file cannot be read or written, and `UnpicklingError` for a file of more than plain values.
    """
    for path in checkpoint.iterdir():
        if path.suffix in PICKLED:
            with safe_globals():  # the random states hold NumPy arrays
                value = torch.load(path, map_location="cpu", weights_only=True)
            tensors: dict[str, torch.Tensor] = {}
            write_json(_to_json(value, tensors), folder / f"{path.name}.json")
            save_file(tensors, folder / f"{path.name}.safetensors")
        elif path.suffix == ".json" and path.name not in (TRAINER_STATE, MANIFEST):
            write_json(redact(read_json(path)), folder / path.name)
        elif path.suffix in (".safetensors", ".py"):
            shutil.copy(path, folder)
    state = read_json(checkpoint / TRAINER_STATE, MAX_STATE)
    if state[_BEST_MODEL]:  # a path of this machine
        state[_BEST_MODEL] = Path(state[_BEST_MODEL]).name
    write_json(state, folder / TRAINER_STATE)
    if best is not None:
        (folder / _BEST).mkdir()
        for path in best.glob("*.safetensors"):
            shutil.copy(path, folder / _BEST)


def read_pickle_free(folder: Path, output_dir: str | os.PathLike[str]) -> Path:
    """
    Turn what [`write_pickle_free`] wrote into `checkpoint-N` folders of `output_dir`, and return the one to resume.
    Raises `ValueError` if the folder holds no such state, or a damaged one; then nothing is written.
    """
    if not (folder / TRAINER_STATE).is_file():
        raise ValueError(
            "resume_from_checkpoint: that revision holds a model, but not the state of its training; "
            "hub_strategy checkpoint pushes it, to the branch last-checkpoint"
        )
    # All of it is read before anything is written: half a checkpoint would count as a run.
    state = _read_state(folder / TRAINER_STATE)
    written = checkpoint_path(output_dir, state[_STEP])
    best = checkpoint_path(output_dir, state[_BEST_MODEL]) if (folder / _BEST).is_dir() else None
    values = {}
    for path in folder.glob("*.json"):
        if path.stem.endswith(PICKLED):
            values[path.stem] = _read_value(path)
    for path in folder.rglob("*.safetensors"):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise _damage(path, error) from error

    if best is not None:
        shutil.copytree(folder / _BEST, best)
        write_manifest(best)
    shutil.rmtree(written, ignore_errors=True)  # the best checkpoint may be this one
    written.mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix in (".safetensors", ".json", ".py") and not path.stem.endswith(PICKLED):
            shutil.copy(path, written)
    for name, value in values.items():
        torch.save(value, written / name)
    write_manifest(written)
    return written


def _damage(path: Path, reason: object) -> ValueError:
    reason = one_line(reason) if isinstance(reason, Exception) else reason
    return ValueError(
        f"resume_from_checkpoint: the state in that revision is damaged ({path.name}: {reason}); name another one, or "
        "push it again"
    )


def _read_state(path: Path) -> dict[str, int]:
    """Return the step of a pushed state and that of its best model (0 without one), which become names of folders."""
    try:
        state = read_json(path, MAX_STATE)
    except ValueError as error:
        raise _damage(path, error) from error
    step, best = state.get(_STEP), state.get(_BEST_MODEL)
    best_step = step_of(best) if isinstance(best, str) else 0
    if type(step) is not int or best_step is None:
        raise _damage(path, f"it is at step {step!r}, and its best model is {best!r}")
    return {_STEP: step, _BEST_MODEL: best_step}


def _read_value(path: Path) -> Any:
    """Read what was a pickle from its JSON and the tensors beside it."""
    try:
        tensors = load_file(path.with_suffix(".safetensors"))
        return _from_json(read_json(path), tensors)
    # The content may be anything, as others may have edited it.
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise _damage(path, error) from error


def _to_json(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Return a value as JSON; its tensors and arrays are put into `tensors` under numbers."""
    if isinstance(value, dict):  # pairs, since keys may be numbers
        return {"dict": [[_to_json(key, tensors), _to_json(part, tensors)] for key, part in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_to_json(part, tensors) for part in value]}
    if isinstance(value, np.ndarray):  # uint32, which safetensors may lack
        return {"array": _to_json(torch.from_numpy(value.astype(np.int64)), tensors), "dtype": str(value.dtype)}
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    return value


def _from_json(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Return the value that [`_to_json`] turned into JSON and tensors."""
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {_from_json(key, tensors): _from_json(part, tensors) for key, part in value["dict"]}
    if "list" in value:
        return [_from_json(part, tensors) for part in value["list"]]
    if "tuple" in value:
        return tuple(_from_json(part, tensors) for part in value["tuple"])
    if "array" in value:
        return _from_json(value["array"], tensors).numpy().astype(value["dtype"])
    return tensors[value["tensor"]]
