"""A checkpoint's full state without pickle: optimizer, schedule and random states as safetensors and JSON."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers.trainer_pt_utils import safe_globals

from ..errors import UserError
from ..reporting.run_files import checkpoint_path, step_of
from ..reporting.run_record import redact
from .save import MANIFEST, TRAINER_STATE, write_manifest

_BEST = "best"
_PICKLED = (".pt", ".pth")


def write_portable(checkpoint, folder, best=None):
    """
    Everything in a checkpoint folder, written into another one without a pickle.

    Args:
        checkpoint (`Path`): what the Trainer wrote.
        folder (`Path`): there already; its files of the same name are replaced.
        best (`Path`, *optional*): the best checkpoint, where that is another one; its model goes along.
    """
    for path in checkpoint.iterdir():
        if path.suffix in _PICKLED:
            with safe_globals():  # NumPy's arrays, in the random states
                value = torch.load(path, map_location="cpu", weights_only=True)
            _write_value(value, folder / path.name)
        elif path.suffix == ".json" and path.name not in (TRAINER_STATE, MANIFEST):
            (folder / path.name).unlink(missing_ok=True)
            _write(redact(_read(path)), folder / path.name)
        elif path.suffix in (".safetensors", ".py"):
            (folder / path.name).unlink(missing_ok=True)
            shutil.copy(path, folder)
    state = _read(checkpoint / TRAINER_STATE)
    if state["best_model_checkpoint"]:  # a path of this machine
        state["best_model_checkpoint"] = Path(state["best_model_checkpoint"]).name
    _write(state, folder / TRAINER_STATE)
    if best is not None:
        (folder / _BEST).mkdir()
        for path in best.glob("*.safetensors"):
            shutil.copy(path, folder / _BEST)


def read_portable(folder, output_dir):
    """
    Turns what [`write_portable`] wrote back into `checkpoint-N` folders of `output_dir`.

    Returns:
        The `Path` of the checkpoint to resume from.

    Raises:
        UserError: if it holds no such state.
    """
    folder, output_dir = Path(folder), Path(output_dir)
    if not (folder / TRAINER_STATE).is_file():
        raise UserError(
            "--resume_from_checkpoint: that revision holds a model, but not the state of its training; "
            "--hub_strategy checkpoint pushes it, to the branch last-checkpoint"
        )
    state = _read(folder / TRAINER_STATE)
    step, best_name = state["global_step"], state["best_model_checkpoint"]
    if (folder / _BEST).is_dir():
        best = checkpoint_path(output_dir, step_of(best_name))
        shutil.copytree(folder / _BEST, best)
        write_manifest(best)
    written = checkpoint_path(output_dir, step)
    shutil.rmtree(written, ignore_errors=True)  # where the best one is this one
    written.mkdir(parents=True)
    values = {path.name.removesuffix(".json") for path in folder.glob("*.json")}
    values = {name for name in values if name.endswith(_PICKLED)}
    for path in folder.iterdir():
        own = path.name.removesuffix(path.suffix) in values
        if path.suffix in (".safetensors", ".json", ".py") and not own:
            shutil.copy(path, written)
    for name in values:
        torch.save(_read_value(folder / name), written / name)
    write_manifest(written)
    return written


def _write_value(value, path):
    tensors = {}
    structure = _take_apart(value, tensors)
    _write(structure, path.with_name(f"{path.name}.json"))
    save_file(tensors, path.with_name(f"{path.name}.safetensors"))


def _read_value(path):
    tensors = load_file(path.with_name(f"{path.name}.safetensors"))
    return _put_together(_read(path.with_name(f"{path.name}.json")), tensors)


def _take_apart(value, tensors):
    """JSON for a value; its tensors and arrays go into `tensors` under numbers."""
    if isinstance(value, dict):  # as pairs, since keys are numbers too
        return {"dict": [[_take_apart(part, tensors) for part in pair] for pair in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_take_apart(part, tensors) for part in value]}
    if isinstance(value, np.ndarray):  # unsigned 32-bit numbers, which safetensors may lack
        return {"array": _take_apart(torch.from_numpy(value.astype(np.int64)), tensors), "dtype": str(value.dtype)}
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
        # A fused optimizer wants its moments in the layout of the weights.
        return {"tensor": name, "strides": value.stride()}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a checkpoint's state holds a {type(value).__name__}, which has no form in JSON")


def _put_together(value, tensors):
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {_put_together(k, tensors): _put_together(v, tensors) for k, v in value["dict"]}
    if "list" in value:
        return [_put_together(part, tensors) for part in value["list"]]
    if "tuple" in value:
        return tuple(_put_together(part, tensors) for part in value["tuple"])
    if "array" in value:
        return _put_together(value["array"], tensors).numpy().astype(value["dtype"])
    tensor = tensors[value["tensor"]]
    return torch.empty_strided(tensor.shape, value["strides"], dtype=tensor.dtype).copy_(tensor)


def _read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def _write(value, path):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
