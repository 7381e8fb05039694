"""Choices and defaults that the command line shows in --help, apart from modules that take seconds to import."""

from dataclasses import field

DEFAULT_DATASET = "uoft-cs/cifar100"
BUILT_IN_DATASETS = ("shapes100",)
LR_BATCH = 256  # the batch size that `--lr_scaling` scales from
IMAGE_SIZE = 32  # height and width, pixels
MAX_IMAGE_SIZE = 1024
AUGMENTATIONS = ("seed", "notebook", "crop", "cutout", "trivial", "randaugment", "strong", "none")
POLICY_FORMATS = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}
# Brightness, contrast, saturation and hue. Albumentations' default hue of 0.5 would turn any colour into any other.
COLOR_JITTER = (0.2, 0.2, 0.2, 0.02)
DEPTHS, CIFAR_DEPTHS = (18, 34, 50, 101, 152), (20, 32, 44, 56)
BLOCKS = ("basic", "bottleneck")
STEMS = ("cifar", "imagenet")


def option(default, help, **metadata):
    """Return the field of a dataclass of arguments; a function as default is called for each."""
    chosen = {"default_factory": default} if callable(default) else {"default": default}
    return field(**chosen, metadata={"help": help, **metadata})
