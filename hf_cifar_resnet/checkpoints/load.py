"""Load a model, its image processor and its data from the folder of a checkpoint."""

import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import ViTImageProcessor
from transformers.utils.logging import disable_progress_bar

from ..data.arguments import DataArguments
from ..data.dataset import ImageDataset
from ..data.splits import ImageSplits, load_splits
from ..documents import read_json
from ..errors import UserError, explained, shorten
from ..model import CifarResNetConfig, CifarResNetForImageClassification

FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors calls them; quantised weights mean nothing without their scales


def load_checkpoint(folder: Path) -> tuple[CifarResNetForImageClassification, ViTImageProcessor]:
    """Load the model, ready to predict, and the image processor of a folder. Raises `ValueError`."""
    with explained(f"the checkpoint {folder} cannot be loaded", ValueError):
        return load_model(folder).eval(), load_processor(folder)


def load_data_for(
    name: str,
    data_args: DataArguments | None,
    model: CifarResNetForImageClassification,
    processor: ViTImageProcessor,
    needed: set[str],
) -> ImageSplits:
    """
    Load the `needed` splits, as [`ImageSplits`], without augmentation and normalised for a checkpoint. Raises
    [`UserError`] if no dataset is named, it lacks a split, or its classes are not the checkpoint's.
    """
    if data_args is None:
        raise UserError(f"{name} does not say what it was trained on (no run.json): give --dataset_name")
    options = vars(data_args) | {
        "image_mean": processor.image_mean,
        "image_std": processor.image_std,
        "image_size": processor.size["height"],
        "augmentation": "none",
        "random_erasing": 0.0,
    }
    data = load_splits(**options, needed=needed)
    if difference := find_class_difference(label_names(model), data.label_names):
        raise UserError(
            f"the classes of the checkpoint {name} and of the dataset {data_args.dataset_name} differ: {difference}; "
            "name the right dataset with --dataset_name"
        )
    if missing := [split for split in needed if getattr(data, split) is None]:
        raise UserError(f"the dataset has no {missing[0]} split")
    return data


@dataclass(frozen=True)
class LoadedCheckpoint:
    """
    A checkpoint and a dataset.

    Attributes:
        name: the folder or Hub id as it was given.
        model: in evaluation mode, on the device that it was loaded to.
        data: the splits that are needed, without augmentation and normalized as the checkpoint's images were.
    """

    name: str
    model: CifarResNetForImageClassification
    data: ImageSplits

    def images(self, split: str) -> ImageDataset:
        """Return the images of a split that is needed."""
        return getattr(self.data, split)


def load_with_data(
    folder: Path,
    data_args: DataArguments | None,
    needed: set[str],
    device: torch.device | None = None,
    name: str | None = None,
) -> LoadedCheckpoint:
    """
    Load the checkpoint in a folder with the `needed` splits of its data; `name` is what a user calls it. Raises what
    [`load_checkpoint`] and [`load_data_for`] raise.
    """
    name = name or str(folder)
    model, processor = load_checkpoint(folder)
    if device is not None:
        model.to(device)  # pyright: ignore[reportArgumentType]
    return LoadedCheckpoint(name, model, load_data_for(name, data_args, model, processor, needed))


def find_class_difference(known, found):
    """Return how two lists of class names differ, in a few words, or None where they are equal."""
    if known == found:
        return None
    if len(known) == len(found):
        pairs = enumerate(zip(known, found, strict=True))
        return shorten([f"class {i} is {a} in the first and {b} in the second" for i, (a, b) in pairs if a != b])
    lists = {"first": sorted(set(known) - set(found)), "second": sorted(set(found) - set(known))}
    alone = [f"; {shorten(names)} only in the {place}" for place, names in lists.items() if names]
    return f"{len(known)} classes in the first and {len(found)} in the second{''.join(alone)}"


def label_names(model):
    """Return the class names in the order of their numbers."""
    return [model.config.id2label[number] for number in range(model.config.num_labels)]


def load_model(folder, **config):
    """
    Load the model in a folder, in float32, with some fields of its configuration changed. No code of the folder is run
    and nothing is unpickled. Raises [`UserError`] if the weights are not exactly those of its model, or not finite.
    """
    with explained("", Exception):  # transformers and safetensors each raise their own
        given = read_json(folder / "config.json")
        if "quantization_config" in given:
            raise ValueError("quantised weights are not supported")
        if not list(folder.glob("model*.safetensors")):
            raise ValueError("it has no model.safetensors; weights in other formats may run code and are not read")
        disable_progress_bar()
        with quiet():
            model, loaded = CifarResNetForImageClassification.from_pretrained(
                folder,
                config=CifarResNetConfig(**given | config),
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    # Transformers would draw these weights at random, or leave them out, and only warn.
    mismatched = {name for name, *_ in loaded["mismatched_keys"]}
    if wrong := sorted({*mismatched, *loaded["missing_keys"], *loaded["unexpected_keys"]}):
        raise UserError(f"its weights are not those of its config.json: {len(wrong)} differ, such as {wrong[0]}")
    _check_numbers(model, folder)
    model.config.return_dict = True  # the file may say otherwise
    return model


def _check_numbers(model, folder):
    """Raise [`UserError`] for weights with which predictions would mean nothing."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in sorted(weights.keys() & file.keys()):
                if (dtype := file.get_slice(name).get_dtype()) not in FLOATS:
                    raise UserError(f"its weights are not floating-point numbers: {name} is {dtype}")
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UserError(f"its weights are not finite: {name} has NaN or infinite values")
        if name.endswith("running_var") and tensor.min() < 0:
            raise UserError(f"its BatchNorm statistics are wrong: {name} has a negative variance")


@explained("preprocessor_config.json lacks", LookupError)
@explained("preprocessor_config.json", OSError, TypeError, ValueError)
def load_processor(folder):
    """Load the image processor in a folder. Raises [`UserError`] if it is not of the one kind that training writes."""
    given = read_json(folder / "preprocessor_config.json")
    kind = given.get("image_processor_type", "ViTImageProcessor")
    if kind not in ("ViTImageProcessor", "ViTImageProcessorFast"):
        raise ValueError(f"image_processor_type must be ViTImageProcessor, got {kind!r}")
    size = {side: given["size"][side] for side in ("height", "width")}
    if type(size["height"]) is not int or size["width"] != size["height"]:
        raise ValueError(f"size must have an equal height and width, got {size}")
    numbers = {name: list(given[name]) for name in ("image_mean", "image_std")}
    DataArguments(image_size=size["height"], **numbers)  # raises ValueError
    processor = ViTImageProcessor(size=size, do_convert_rgb=True, **numbers)
    for name, value in processor.to_dict().items():
        if name.startswith(("do_", "re")) and given.get(name, value) != value:
            raise ValueError(f"{name} must be {value}, as training writes it, got {given[name]!r}")
    return processor


@contextmanager
def quiet():
    """Hide what libraries log and warn of, such as tables of weights that do not fit, which exceptions report."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
