"""Load a model, its image processor and its data from a checkpoint: a folder, or a repository on the Hub."""

import math
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open

from ..choices import MAX_IMAGE_SIZE
from ..data.sources import load_splits
from ..documents import read_json
from ..errors import UserError
from ..hub import client
from ..model import CifarResNetConfig, CifarResNetForImageClassification

SHOWN = 3  # classes that differ


def load_data_for(name, data_args, model, processor, needed):
    """
    [`ImageSplits`] without augmentation, sized and normalised as a checkpoint's image processor says, with those splits
    that are needed.

    Raises:
        UserError: if no dataset is named, or its classes are not the checkpoint's.
    """
    if data_args.dataset_name is None:
        raise UserError(f"{name} does not say what it was trained on (no run.json): give --dataset_name")
    options = {name: value for name, value in vars(data_args).items() if name != "eval_split"}
    options |= {
        "image_mean": processor.image_mean,
        "image_std": processor.image_std,
        "image_size": processor.size["height"],
        "augmentation": "none",
    }
    data = load_splits(**options, needed=needed)
    known, found = label_names(model), data.label_names
    if found != known:
        raise UserError(
            f"the classes of the checkpoint {name} are not those of {data_args.dataset_name}: "
            f"{_difference(known, found)}; name the right dataset with --dataset_name"
        )
    return data


def _difference(known, found):
    """What the classes of a checkpoint and of a dataset differ in, in a few words."""
    if sorted(known) == sorted(found):
        moved = [f"{i} is {known[i]} there and {found[i]} here" for i in range(len(known)) if known[i] != found[i]]
        return f"the same in another order, {_some(moved)}"
    lists = {"there": sorted(set(known) - set(found)), "here": sorted(set(found) - set(known))}
    alone = [f"{_some(names)} only {place}" for place, names in lists.items() if names]
    return f"{len(known)} there and {len(found)} here, {'; '.join(alone)}"


def _some(words):
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return f"{', '.join(words[:SHOWN])}{more}"


def find_split(data, name):
    """The images of a split. Raises [`UserError`] where there are none."""
    found = getattr(data, name)
    if found is None:
        raise UserError(f"the dataset has no {name} split")
    return found


# Of the weights in a file, as safetensors calls them. Quantised ones mean nothing without their scales.
FLOATS = ("F64", "F32", "F16", "BF16")
# An answer that is no number, where all weights are numbers.
NOT_FINITE = "the model's answers are not finite: its weights are too large, or its calibration_temperature too small"


def find_checkpoint(name):
    """
    The folder of a checkpoint: itself, or the local copy of `user/repo` or `user/repo@revision` on the Hub.

    Raises:
        UserError: if there is neither.
    """
    folder = Path(name)
    if client.is_reference(name):
        try:
            folder = client.download(name)
        except client.HubError as error:
            raise UserError(f"there is no folder {name}, and from the Hub: {error}") from error
    if not (folder / "config.json").is_file():
        raise UserError(f"{name} holds no checkpoint (no config.json)")
    return folder


def load_checkpoint(name):
    """
    The model, ready to predict, and its image processor.

    Args:
        name (`str`): a folder that training wrote, or `user/repo` on the Hub.

    Raises:
        UserError: if there is none, or [`load_model`] or [`load_processor`] refuses it.
    """
    folder = find_checkpoint(name)
    try:
        return load_model(folder).eval(), load_processor(folder)
    except UserError as error:
        raise UserError(f"the checkpoint {name} cannot be loaded: {error}") from error


def load_model(folder, **config):
    """
    The model in a folder, in float32. Nothing in the folder is run or unpickled: the classes are ours, and the weights
    safetensors.

    Args:
        config: fields of its configuration to change.

    Raises:
        UserError: for weights that are missing, surplus, of another shape, not finite or no floating-point numbers, or
            a configuration that describes no model.
    """
    from transformers import logging

    try:
        given = read_json(folder / "config.json")
        if "quantization_config" in given:
            raise ValueError("quantised weights are not supported")
        if not list(folder.glob("model*.safetensors")):
            raise ValueError("it has no model.safetensors; weights in other formats may run code and are not read")
        with _silent(logging):
            model, loaded = CifarResNetForImageClassification.from_pretrained(
                folder,
                config=CifarResNetConfig(**given | config),
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers and safetensors each raise their own
        raise UserError(" ".join(str(error).split()) or type(error).__name__) from error
    _check_names(loaded)
    _check_numbers(model, folder)
    # A file may have asked for tuples.
    model.config.return_dict = True
    return model


def _check_names(loaded):
    """Where transformers would draw weights at random, or leave some out, and only warn."""
    if loaded["mismatched_keys"]:
        name, found, needed = sorted(loaded["mismatched_keys"])[0]
        raise UserError(f"its weights are not those of its config.json: {name} is {list(found)}, not {list(needed)}")
    if missing := sorted(loaded["missing_keys"]):
        raise UserError(f"it lacks {len(missing)} of the model's weights, such as {missing[0]}")
    if surplus := sorted(loaded["unexpected_keys"]):
        raise UserError(
            f"its weights are not those of its config.json: {len(surplus)} belong to no part of that model, such as "
            f"{surplus[0]}"
        )


def _check_numbers(model, folder):
    """Weights that would answer "nan%", or anything at all."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in sorted(weights.keys() & file.keys()):
                if (dtype := file.get_slice(name).get_dtype()) not in FLOATS:
                    raise UserError(f"its weights are no floating-point numbers: {name} is {dtype}")
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UserError(f"its weights are not finite: {name} has NaN or infinite values")
        if name.endswith("running_var") and tensor.min() < 0:
            raise UserError(f"its BatchNorm statistics are wrong: {name} has a negative variance")


def load_processor(folder):
    """
    The image processor in a folder, of the one kind that training writes.

    Raises:
        UserError: if it is missing, of another kind, or its numbers make no pixel values.
    """
    try:
        given = read_json(folder / "preprocessor_config.json")
        return _processor(given)
    except (OSError, ValueError) as error:
        raise UserError(f"preprocessor_config.json: {getattr(error, 'strerror', None) or error}") from error


def _processor(given):
    from transformers import ViTImageProcessor

    kind = given.get("image_processor_type", "ViTImageProcessor")
    if kind not in ("ViTImageProcessor", "ViTImageProcessorFast"):
        raise ValueError(f"image_processor_type must be ViTImageProcessor, got {kind!r}")
    size = given.get("size")
    height = size.get("height") if isinstance(size, dict) else None
    if type(height) is not int or size.get("width") != height or not 1 <= height <= MAX_IMAGE_SIZE:
        raise ValueError(f"size must have an equal height and width from 1 to {MAX_IMAGE_SIZE}, got {size!r}")
    for name in ("image_mean", "image_std"):
        values = given.get(name)
        numbers = isinstance(values, list) and all(type(v) in (int, float) and math.isfinite(v) for v in values)
        if not numbers or len(values) != 3 or (name == "image_std" and min(values) <= 0):
            raise ValueError(f"{name} must be three numbers{' above 0' * (name == 'image_std')}, got {values!r}")
    size = {"height": height, "width": height}
    made = ViTImageProcessor(
        size=size, image_mean=given["image_mean"], image_std=given["image_std"], do_convert_rgb=True
    )
    for name, value in made.to_dict().items():
        if name.startswith(("do_", "re")) and given.get(name, value) != value:
            raise ValueError(f"{name} must be {value}, as training has it, got {given[name]!r}")
    return made


@contextmanager
def _silent(logging):
    """Without progress bars, and without tables of what does not fit: the exception says it."""
    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def label_names(model):
    """The name of each class number."""
    return [model.config.id2label[number] for number in range(model.config.num_labels)]
