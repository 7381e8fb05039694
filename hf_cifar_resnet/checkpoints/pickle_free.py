"""A checkpoint's full state without pickle: optimizer, schedule and random states as safetensors and JSON."""

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers.trainer_pt_utils import safe_globals

from ..documents import read_json, write_json
from ..errors import UserError, explained
from ..runs.files import checkpoint_path, step_of
from ..runs.redaction import redact
from .resume import LARGEST_STATE
from .save import MANIFEST, TRAINER_STATE, write_manifest

_BEST = "best"
_PICKLED = (".pt", ".pth")


def write_pickle_free(checkpoint, folder, best=None):
    """Write a checkpoint into a folder without a pickle, with the model of the checkpoint `best` if that is another."""
    for path in checkpoint.iterdir():
        if path.suffix in _PICKLED:
            with safe_globals():  # the random states hold NumPy arrays
                value = torch.load(path, map_location="cpu", weights_only=True)
            tensors = {}
            write_json(_take_apart(value, tensors), folder / f"{path.name}.json")
            save_file(tensors, folder / f"{path.name}.safetensors")
        elif path.suffix == ".json" and path.name not in (TRAINER_STATE, MANIFEST):
            write_json(redact(read_json(path)), folder / path.name)
        elif path.suffix in (".safetensors", ".py"):
            shutil.copy(path, folder)
    state = read_json(checkpoint / TRAINER_STATE, LARGEST_STATE)
    if state["best_model_checkpoint"]:  # a path of this machine
        state["best_model_checkpoint"] = Path(state["best_model_checkpoint"]).name
    write_json(state, folder / TRAINER_STATE)
    if best is not None:
        (folder / _BEST).mkdir()
        for path in best.glob("*.safetensors"):
            shutil.copy(path, folder / _BEST)


def read_pickle_free(folder, output_dir):
    """
    Turn what [`write_pickle_free`] wrote into `checkpoint-N` folders of `output_dir`, and return the one to resume.
    Raises [`UserError`] if the folder holds no such state.
    """
    folder, output_dir = Path(folder), Path(output_dir)
    if not (folder / TRAINER_STATE).is_file():
        raise UserError(
            "--resume_from_checkpoint: that revision holds a model, but not the state of its training; "
            "--hub_strategy checkpoint pushes it, to the branch last-checkpoint"
        )
    # All of it is read before anything is written: half a checkpoint would count as a run.
    with explained(
        "--resume_from_checkpoint: the state in that revision is damaged; name another one, or push it again",
        LookupError, TypeError, ValueError, AttributeError, RuntimeError, FileNotFoundError, SafetensorError,
    ):  # fmt: skip
        state = read_json(folder / TRAINER_STATE, LARGEST_STATE)
        written = _checkpoint(output_dir, state["global_step"])
        has_best = (folder / _BEST).is_dir()
        best = _checkpoint(output_dir, step_of(state["best_model_checkpoint"])) if has_best else None
        pickled = {path.stem: path for path in folder.glob("*.json") if path.stem.endswith(_PICKLED)}
        values = {
            name: _put_together(read_json(path), load_file(path.with_suffix(".safetensors")))
            for name, path in pickled.items()
        }
        for path in folder.rglob("*.safetensors"):
            with safe_open(path, framework="pt"):
                pass
    if best is not None:
        shutil.copytree(folder / _BEST, best)
        write_manifest(best)
    shutil.rmtree(written, ignore_errors=True)  # the best checkpoint may be this one
    written.mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix in (".safetensors", ".json", ".py") and not path.stem.endswith(_PICKLED):
            shutil.copy(path, written)
    for name, value in values.items():
        torch.save(value, written / name)
    write_manifest(written)
    return written


def _checkpoint(output_dir, step):
    """Return the folder of a step, which as a text could lead out of `output_dir`. Raises `TypeError`."""
    if type(step) is not int:
        raise TypeError(f"the number of a step is {step!r}")
    return checkpoint_path(output_dir, step)


def _take_apart(value, tensors):
    """Return a value as JSON; its tensors and arrays are put into `tensors` under numbers."""
    if isinstance(value, dict):  # pairs, since keys may be numbers
        return {"dict": [[_take_apart(part, tensors) for part in pair] for pair in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_take_apart(part, tensors) for part in value]}
    if isinstance(value, np.ndarray):  # uint32, which safetensors may lack
        return {"array": _take_apart(torch.from_numpy(value.astype(np.int64)), tensors), "dtype": str(value.dtype)}
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    return value


def _put_together(value, tensors):
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {_put_together(k, tensors): _put_together(v, tensors) for k, v in value["dict"]}
    for kind in (list, tuple):
        if kind.__name__ in value:
            return kind(_put_together(part, tensors) for part in value[kind.__name__])
    if "array" in value:
        return _put_together(value["array"], tensors).numpy().astype(value["dtype"])
    return tensors[value["tensor"]]
