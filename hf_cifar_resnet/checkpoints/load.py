"""Load a model, its image processor and its data from the folder of a checkpoint."""

import itertools
import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import ViTImageProcessor
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from ..data.arguments import DataArguments
from ..data.dataset import ImageDataset
from ..data.splits import ImageSplits, load_splits
from ..documents import read_json
from ..errors import one_line, shorten
from ..model import CifarResNetConfig, CifarResNetForImageClassification
from ..runs.files import find_run_record, folder_name
from ..runs.record import RunRecord

FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors calls them; quantized weights mean nothing without their scales


def load_checkpoint(folder: Path) -> tuple[CifarResNetForImageClassification, ViTImageProcessor]:
    """
    Load the model of a checkpoint, ready to predict, and its image processor. Raises `ValueError` or `OSError` as
    [`load_model`] and [`load_processor`] do.
    """
    return load_model(folder).eval(), load_processor(folder)


def load_data_for(
    name: str | Path,
    data_args: DataArguments | None,
    model: CifarResNetForImageClassification,
    processor: ViTImageProcessor,
    needed: Collection[str],
) -> ImageSplits:
    """
    Load the `needed` splits without augmentation, normalized for a checkpoint, which messages call `name`, and with its
    class numbers, by the names of the classes. Raises `ValueError` if no dataset is named, it lacks a split, or it has
    a class that the checkpoint does not know.
    """
    if data_args is None:
        raise ValueError(f"{name} does not say what it was trained on (no run.json): give a dataset_name")
    arguments = vars(data_args) | {
        "image_mean": processor.image_mean,
        "image_std": processor.image_std,
        "image_size": processor.size["height"],
        "augmentation": "none",
        "random_erasing": 0.0,
    }
    data = load_splits(**arguments, needed=needed)
    for split in needed:
        if getattr(data, split) is None:
            raise ValueError(f"the dataset has no {split} split")
    return data.numbered_as(_check_known(data.label_names, label_names(model), name, data_args.dataset_name))


def _check_known(found: list[str], known: list[str], name: str | Path, dataset_name: str) -> list[str]:
    """Return the classes that a checkpoint knows. Raises `ValueError` if those of a dataset are not among them."""
    if unknown := [label for label in found if label not in known]:
        classes = "a class" if len(unknown) == 1 else "classes"
        raise ValueError(
            f"the dataset {dataset_name} has {classes} that the checkpoint {name} "
            f"does not know: {shorten(unknown)}; it knows {shorten(known)}: rename or remove what it does not know, or "
            "choose another dataset with dataset_name"
        )
    if found != known and len(set(known)) < len(known):
        twice = next(label for label in known if known.count(label) > 1)
        raise ValueError(f"the checkpoint {name} calls two classes {twice}: its answers cannot be scored by name")
    return known


@dataclass(frozen=True)
class LoadedCheckpoint:
    """
    A checkpoint and a dataset.

    Attributes:
        name: the folder or Hub id as it was given.
        model: in evaluation mode, on the device that it was loaded to.
        processor: its image processor.
        data: the splits that are needed, without augmentation and normalized as the checkpoint's images were, with the
            checkpoint's class numbers.
    """

    name: str
    model: CifarResNetForImageClassification
    processor: ViTImageProcessor
    data: ImageSplits

    def images(self, split: str) -> ImageDataset:
        """Return the images of a split that is needed."""
        return getattr(self.data, split)

    def check_has_all_classes(self, purpose: str) -> None:
        """Raise `ValueError` if the data lacks classes that the model knows, all of which a purpose needs."""
        if missing := self.data.missing_labels:
            raise ValueError(
                f"{purpose} needs images of all {len(self.data.label_names):,} classes of {self.name}, and the dataset "
                f"has none of {shorten(missing)}: choose one that has, with dataset_name"
            )

    def describe_classes(self, split: str) -> str | None:
        """Return a sentence on the classes that have images in a split, or None where all have."""
        names = self.data.label_names
        there = [names[number] for number in self.images(split).labels.unique().tolist()]
        if len(there) == len(names):
            return None
        return (
            f"only {len(there):,} of the model's {len(names):,} classes occur in these images ({shorten(there)}); "
            f"it chooses among all {len(names):,}"
        )

    def predicts_like(self, other: "LoadedCheckpoint") -> bool:
        """Whether it is the same model: it has the same weights, and sees images alike."""
        own, others = self.model.state_dict(), other.model.state_dict()
        return (
            self.processor.to_dict() == other.processor.to_dict()
            and own.keys() == others.keys()
            and all(torch.equal(own[name], others[name]) for name in own)
        )


def check_distinct(checkpoints: Sequence[LoadedCheckpoint]) -> None:
    """Raise `ValueError` if two checkpoints of an ensemble are the same model, which would count twice."""
    for first, second in itertools.combinations(checkpoints, 2):
        if second.predicts_like(first):
            raise ValueError(f"{second.name} has the same weights as {first.name}: name each model once")


def load_with_data(
    folder: Path,
    data_args: DataArguments | None,
    needed: Collection[str],
    device: torch.device | None = None,
    name: str | None = None,
) -> LoadedCheckpoint:
    """
    Load the checkpoint in a folder with the `needed` splits of its data; `name` is what a user calls it. Raises what
    [`load_checkpoint`] and [`load_data_for`] raise, and `ValueError` if it was trained on the validation images.
    """
    name = name or str(folder)
    model, processor = load_checkpoint(folder)
    if device is not None:
        model.to(device)  # pyright: ignore[reportArgumentType]
    data = load_data_for(name, data_args, model, processor, needed)
    if data_args is not None and data.validation is not None and data.validation_is_held_out:
        _check_held_out(folder, name, data_args, data)
    return LoadedCheckpoint(name, model, processor, data)


def _check_held_out(folder: Path, name: str, data_args: DataArguments, data: ImageSplits) -> None:
    """
    Raise `ValueError` if the run of a checkpoint was trained on images that these arguments hold out for validation, by
    its `run.json`, or may have been, since the dataset had other classes then. One on another dataset was not, as far
    as its name says.
    """
    path = find_run_record(folder)
    if path is None:
        return
    own = RunRecord.read(path).build_data_arguments()
    if own is None:
        return
    # A dataset in a folder may have moved.
    names = {(folder_name(each.dataset_name), each.dataset_config_name) for each in (own, data_args)}
    held_out, wanted = (
        f"validation_fraction {each.validation_fraction:g} and split_seed {each.split_seed}"
        for each in (own, data_args)
    )
    if len(names) == 1 and held_out != wanted:
        raise ValueError(
            f"{name} was trained on some of these validation images, those of {wanted}: it held out those of {held_out}"
        )
    if len(names) == 1 and data.own_label_names is not None:
        difference = find_class_difference(data.label_names, data.own_label_names)
        raise ValueError(
            f"{name} may have been trained on some of these validation images, since the classes of "
            f"{data_args.dataset_name} are not those of its training ({difference}), and which images are held out "
            "depends on them: score the test split"
        )


def check_same_classes(checkpoints: Sequence[LoadedCheckpoint]) -> None:
    """Raise `ValueError` if checkpoints do not know the same classes by the same numbers."""
    first, *others = checkpoints
    for other in others:
        if difference := find_class_difference(first.data.label_names, other.data.label_names):
            raise ValueError(
                f"the classes of {first.name} and {other.name} differ: {difference}; checkpoints are only compared, or "
                "scored together, if they know the same classes by the same numbers"
            )


def find_class_difference(known: list[str], found: list[str]) -> str | None:
    """Return how two lists of class names differ, in a few words, or None where they are equal."""
    if known == found:
        return None
    if len(known) == len(found):
        pairs = enumerate(zip(known, found, strict=True))
        return shorten([f"class {i} is {a} in the first and {b} in the second" for i, (a, b) in pairs if a != b])
    lists = {"first": sorted(set(known) - set(found)), "second": sorted(set(found) - set(known))}
    alone = [f"; {shorten(names)} only in the {place}" for place, names in lists.items() if names]
    return f"{len(known)} classes in the first and {len(found)} in the second{''.join(alone)}"


def label_names(model: CifarResNetForImageClassification) -> list[str]:
    """Return the class names in the order of their numbers."""
    names: dict[int, str] = model.config.id2label  # type: ignore[assignment]
    return [names[number] for number in range(len(names))]


def load_model(folder: Path, **changes: Any) -> CifarResNetForImageClassification:
    """
    Load the model in a folder, in float32 and training mode, with some fields of its configuration changed. No code of
    the folder is run and nothing is unpickled.

    Raises:
        `ValueError`: if the configuration is wrong, or the weights are not exactly those of its model, or not finite.
        `OSError`: if a file cannot be read.
    """
    config = _load_config(folder, changes)
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise _load_error(folder, "it has no model.safetensors; weights in other formats may run code and are not read")
    model, loaded = _load_weights(folder, config)
    # Transformers would draw these weights at random, or leave them out, and only warn.
    mismatched = {name for name, *_ in loaded["mismatched_keys"]}
    if wrong := sorted({*mismatched, *loaded["missing_keys"], *loaded["unexpected_keys"]}):
        raise _load_error(
            folder, f"its weights are not those of its config.json: {len(wrong)} differ, such as {wrong[0]}"
        )
    if problem := _find_wrong_numbers(model, weights):
        raise _load_error(folder, problem)
    model.config.return_dict = True  # the file may say otherwise
    return model


def _load_error(folder: Path, reason: object) -> ValueError:
    return ValueError(f"the checkpoint {folder} cannot be loaded: {reason}")


def _load_config(folder: Path, changes: dict[str, Any]) -> CifarResNetConfig:
    try:
        given = read_json(folder / "config.json")
    except FileNotFoundError:
        raise _load_error(folder, "it has no config.json") from None
    except ValueError as error:
        raise _load_error(folder, f"config.json: {error}") from error
    if "quantization_config" in given:
        raise _load_error(folder, "quantized weights are not supported")
    try:
        return CifarResNetConfig(**{**given, **changes})
    except ValueError as error:
        raise _load_error(folder, one_line(error)) from error


def _load_weights(folder: Path, config: CifarResNetConfig) -> tuple[CifarResNetForImageClassification, dict[str, Any]]:
    """Return the model, and what transformers reports of weights that do not fit it."""
    had_progress_bar = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        with quiet():
            return CifarResNetForImageClassification.from_pretrained(  # type: ignore[return-value]
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    # Of safetensors, of a file that is missing or no tensor, and of transformers around these.
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise _load_error(folder, one_line(error)) from error
    finally:
        if had_progress_bar:
            enable_progress_bar()


def _find_wrong_numbers(model: CifarResNetForImageClassification, files: list[Path]) -> str | None:
    """Return why predictions with these weights would mean nothing, or None."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in sorted(weights.keys() & file.keys()):
                if (dtype := file.get_slice(name).get_dtype()) not in FLOATS:
                    return f"its weights are not floating-point numbers: {name} is {dtype}"
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            return f"its weights are not finite: {name} has NaN or infinite values"
        if name.endswith("running_var") and tensor.min() < 0:
            return f"its BatchNorm statistics are wrong: {name} has a negative variance"
    return None


def load_processor(folder: Path) -> ViTImageProcessor:
    """
    Load the image processor in a folder. Raises `ValueError` if it is not of the one kind that training writes, and
    `OSError` if its file cannot be read.
    """
    try:
        return _make_processor(read_json(folder / "preprocessor_config.json"))
    except FileNotFoundError:
        raise _load_error(folder, "it has no preprocessor_config.json") from None
    except ValueError as error:
        raise _load_error(folder, f"preprocessor_config.json: {error}") from error


def _make_processor(given: dict[str, Any]) -> ViTImageProcessor:
    kind = given.get("image_processor_type", "ViTImageProcessor")
    if kind not in ("ViTImageProcessor", "ViTImageProcessorFast"):
        raise ValueError(f"image_processor_type must be ViTImageProcessor, got {kind!r}")
    size = given.get("size")
    if not isinstance(size, dict) or not isinstance(size.get("height"), int) or size.get("width") != size["height"]:
        raise ValueError(f"size must have an equal height and width, got {size!r}")
    side: int = size["height"]
    mean, std = given.get("image_mean"), given.get("image_std")
    if not isinstance(mean, list) or not isinstance(std, list):
        raise ValueError(f"image_mean and image_std must be lists of three numbers, got {mean!r} and {std!r}")
    DataArguments(image_size=side, image_mean=mean, image_std=std)  # raises ValueError
    processor = ViTImageProcessor(
        size={"height": side, "width": side}, image_mean=mean, image_std=std, do_convert_rgb=True
    )
    for name, value in processor.to_dict().items():
        if name.startswith(("do_", "re")) and given.get(name, value) != value:
            raise ValueError(f"{name} must be {value}, as training writes it, got {given[name]!r}")
    return processor


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what libraries log and warn of, such as tables of weights that do not fit, which exceptions report."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
