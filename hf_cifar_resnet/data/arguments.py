"""The arguments of the data: source, splits, normalisation and augmentation."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..choices import (
    AUGMENTATIONS,
    BUILT_IN_DATASETS,
    COLOR_JITTER,
    DEFAULT_AUGMENTATION,
    DEFAULT_DATASET,
    IMAGE_SIZE,
    MAX_IMAGE_SIZE,
    POLICY_FORMATS,
    current_name,
    option,
)
from ..errors import expand_home


@dataclass(frozen=True)
class DataArguments:
    """The dataset, its splits, normalisation and augmentation."""

    dataset_name: str = option(DEFAULT_DATASET, f"a Hub id, a folder, or built in: {', '.join(BUILT_IN_DATASETS)}")
    dataset_config_name: str | None = option(None, "configuration of a Hub dataset that has several")
    dataset_revision: str | None = option(None, "branch, tag or commit of a Hub dataset")
    image_column_name: str | None = option(None, "column of the images; detected if not given")
    label_column_name: str | None = option(None, "column of the labels; detected if not given")
    validation_fraction: float = option(0.1, "share of the training images held out, stratified")
    split_seed: int = option(0, "seed of the held-out images and of the samples")
    eval_split: Literal["validation", "test", "none"] = option(
        "validation", "split for best model, plateau, early stopping; none evaluates nothing while training"
    )
    max_train_samples: int | None = option(None, "train on a stratified sample of this many images")
    max_eval_samples: int | None = option(None, "evaluate and test on stratified samples of this many images")
    image_size: int = option(IMAGE_SIZE, "height and width in pixels")
    image_mean: list[float] | None = option(None, "of the channels, 0 to 1; the training images' if not given")
    image_std: list[float] | None = option(None, "of the channels, 0 to 1; the training images' if not given")
    augmentation: str = option(
        DEFAULT_AUGMENTATION, f"policy: {', '.join(AUGMENTATIONS)}, or an Albumentations YAML or JSON file"
    )
    color_jitter: list[float] = option(
        lambda: [*COLOR_JITTER], f"brightness, contrast, saturation, hue of {DEFAULT_AUGMENTATION}"
    )
    random_erasing: float = option(0.0, "probability of filling a rectangle of an image with noise, after the policy")

    def __post_init__(self) -> None:
        expand_home(self)
        object.__setattr__(self, "augmentation", current_name("augmentation policy", self.augmentation))
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
            if len(values) != 3 or not all(map(math.isfinite, values)):
                raise ValueError(f"{name} needs three numbers, got {values}")
            if not 0 <= min(values) <= max(values) <= 1:
                raise ValueError(f"{name} is on the scale 0 to 1, got {values}: divide grey levels by 255")
        if (self.image_mean is None) != (self.image_std is None):
            given = "image_mean" if self.image_std is None else "image_std"
            raise ValueError(f"{given} is given alone: give both image_mean and image_std, or neither")
        if self.image_std is not None and min(self.image_std) <= 0:
            raise ValueError(f"image_std must be above 0, got {self.image_std}")
