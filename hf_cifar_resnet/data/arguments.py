"""The arguments of the data: source, splits, normalisation and augmentation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import expand_home
from ..processes import warn_once

DEFAULT_DATASET = "uoft-cs/cifar100"
BUILT_IN_DATASETS = ("shapes100",)
IMAGE_SIZE, MAX_IMAGE_SIZE = 32, 1024  # height and width, pixels
AUGMENTATIONS = (
    "crop_flip_jitter", "crop_flip_hole_or_noise", "crop_flip", "crop_only", "cutout", "trivial", "randaugment",
    "mild_trivial_cutout", "none",
)  # fmt: skip
DEFAULT_AUGMENTATION = AUGMENTATIONS[0]
# Former names of policies, which still work, with the present ones.
FORMER_POLICIES = {
    "seed": "crop_flip_jitter",
    "notebook": "crop_flip_hole_or_noise",
    "crop": "crop_flip",
    "strong": "mild_trivial_cutout",
}
POLICY_FORMATS = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}
# Brightness, contrast, saturation and hue. Albumentations' default hue of 0.5 would turn any color into any other.
COLOR_JITTER = (0.2, 0.2, 0.2, 0.02)


def argument(default: Any, help: str, **metadata: Any) -> Any:
    """Return the field of a dataclass of arguments, with its help; a function as default is called for each."""
    metadata = {"help": help, **metadata}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def current_name(kind: str, name: str, former: Mapping[str, str]) -> str:
    """Return the present name for a former one, of which it warns once, and any other name as it is."""
    if name not in former:
        return name
    warn_once(f"the {kind} {name} is called {former[name]} now; the former name still works")
    return former[name]


@dataclass(frozen=True)
class DataArguments:
    """The dataset, its splits, normalisation and augmentation."""

    dataset_name: str = argument(DEFAULT_DATASET, f"a Hub id, a folder, or built in: {', '.join(BUILT_IN_DATASETS)}")
    dataset_config_name: str | None = argument(None, "configuration of a Hub dataset that has several")
    dataset_revision: str | None = argument(None, "branch, tag or commit of a Hub dataset")
    image_column_name: str | None = argument(None, "column of the images; detected if not given")
    label_column_name: str | None = argument(None, "column of the labels; detected if not given")
    validation_fraction: float = argument(0.1, "share of the training images held out, stratified")
    split_seed: int = argument(0, "seed of the held-out images and of the samples")
    eval_split: Literal["validation", "test", "none"] = argument(
        "validation", "split for best model, plateau, early stopping; none evaluates nothing while training"
    )
    max_train_samples: int | None = argument(None, "train on a stratified sample of this many images")
    max_eval_samples: int | None = argument(None, "evaluate and test on stratified samples of this many images")
    image_size: int = argument(IMAGE_SIZE, "height and width in pixels")
    image_mean: list[float] | None = argument(None, "of the channels, 0 to 1; the training images' if not given")
    image_std: list[float] | None = argument(None, "of the channels, 0 to 1; the training images' if not given")
    augmentation: str = argument(
        DEFAULT_AUGMENTATION, f"policy: {', '.join(AUGMENTATIONS)}, or an Albumentations YAML or JSON file"
    )
    color_jitter: list[float] = argument(
        lambda: [*COLOR_JITTER], f"brightness, contrast, saturation, hue of {DEFAULT_AUGMENTATION}"
    )
    random_erasing: float = argument(0.0, "probability of filling a rectangle of an image with noise, after the policy")

    def __post_init__(self) -> None:
        expand_home(self)
        object.__setattr__(
            self, "augmentation", current_name("augmentation policy", self.augmentation, FORMER_POLICIES)
        )
        if not 1 <= self.image_size <= MAX_IMAGE_SIZE:
            raise ValueError(f"image_size must be from 1 to {MAX_IMAGE_SIZE}, got {self.image_size}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must be at least 0 and below 1, got {self.validation_fraction}")
        if self.eval_split == "none" and self.validation_fraction > 0:
            raise ValueError(
                "eval_split none would leave the held-out images unused: train on all images with validation_fraction "
                "0, or evaluate on eval_split validation"
            )
        if self.split_seed < 0:
            raise ValueError(f"split_seed must not be negative, got {self.split_seed}")
        for name in ("max_train_samples", "max_eval_samples"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, got {limit}")
        if self.augmentation not in AUGMENTATIONS and Path(self.augmentation).suffix not in POLICY_FORMATS:
            raise ValueError(
                f"augmentation {self.augmentation} is no policy: choose one of {', '.join(AUGMENTATIONS)}, or give a "
                ".yaml or .json file"
            )
        self._check_normalization()

    def _check_normalization(self) -> None:
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if values is None:
                continue
            is_list = isinstance(values, (list, tuple)) and len(values) == 3
            if not is_list or not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
                raise ValueError(f"{name} needs three numbers, got {values}")
            if not 0 <= min(values) <= max(values) <= 1:
                raise ValueError(f"{name} is on the scale 0 to 1, got {values}: divide grey levels by 255")
        if (self.image_mean is None) != (self.image_std is None):
            given = "image_mean" if self.image_std is None else "image_std"
            raise ValueError(f"{given} is given alone: give both image_mean and image_std, or neither")
        if self.image_std is not None and min(self.image_std) <= 0:
            raise ValueError(f"image_std must be above 0, got {self.image_std}")
