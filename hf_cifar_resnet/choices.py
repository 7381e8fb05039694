"""Choices and defaults that the command line shows in --help, apart from modules that take seconds to import."""

import logging
import os
from dataclasses import field
from functools import cache

DEFAULT_DATASET = "uoft-cs/cifar100"
BUILT_IN_DATASETS = ("shapes100",)
LR_BATCH = 256  # the batch size that `--lr_scaling` scales from
IMAGE_SIZE = 32  # height and width, pixels
MAX_IMAGE_SIZE = 1024
AUGMENTATIONS = (
    "crop_flip_jitter", "crop_flip_hole_or_noise", "crop_flip", "crop_only", "cutout", "trivial", "randaugment",
    "mild_trivial_cutout", "none",
)  # fmt: skip
DEFAULT_AUGMENTATION = AUGMENTATIONS[0]
# Former names, which go on working, with the present ones.
RENAMED = {
    "recipe": {"seed": "notebook"},
    "augmentation policy": {
        "seed": "crop_flip_jitter",
        "notebook": "crop_flip_hole_or_noise",
        "crop": "crop_flip",
        "strong": "mild_trivial_cutout",
    },
}
POLICY_FORMATS = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}
# Brightness, contrast, saturation and hue. Albumentations' default hue of 0.5 would turn any colour into any other.
COLOR_JITTER = (0.2, 0.2, 0.2, 0.02)
DEPTHS, CIFAR_DEPTHS = (18, 34, 50, 101, 152), (20, 32, 44, 56)
BLOCKS = ("basic", "bottleneck")
STEMS = ("cifar", "imagenet")


@cache
def current_name(kind: str, name: str) -> str:
    """Return the present name for a former one, of which a warning is logged once, and any other name as it is."""
    current = RENAMED[kind].get(name, name)
    if current != name and os.environ.get("RANK", "0") == "0":
        text = "the %s %s is called %s now; the former name still works"
        logging.getLogger(__name__).warning(text, kind, name, current)
    return current


def option(default, help, **metadata):
    """Return the field of a dataclass of arguments; a function as default is called for each."""
    chosen = {"default_factory": default} if callable(default) else {"default": default}
    return field(**chosen, metadata={"help": help, **metadata})
