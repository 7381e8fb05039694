"""A checkpoint's full state without pickle: optimizer, schedule and random states as safetensors and JSON."""

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers.trainer_pt_utils import safe_globals

from ..documents import read_json, write_json
from ..errors import UserError
from ..reporting.run_files import checkpoint_path, step_of
from ..reporting.run_record import redact
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
    state = read_json(folder / TRAINER_STATE, LARGEST_STATE)
    if (folder / _BEST).is_dir():
        best = checkpoint_path(output_dir, step_of(state["best_model_checkpoint"]))
        shutil.copytree(folder / _BEST, best)
        write_manifest(best)
    written = checkpoint_path(output_dir, state["global_step"])
    shutil.rmtree(written, ignore_errors=True)  # the best checkpoint may be this one
    written.mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix in (".safetensors", ".json", ".py") and not path.stem.endswith(_PICKLED):
            shutil.copy(path, written)
        elif path.suffix == ".json":
            tensors = load_file(path.with_suffix(".safetensors"))
            torch.save(_put_together(read_json(path), tensors), written / path.stem)
    write_manifest(written)
    return written


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
