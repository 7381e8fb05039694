"""What the command line lists and checks, apart from the code behind it, which takes seconds to load."""

from pathlib import Path

DEFAULT_DATASET = "uoft-cs/cifar100"
BUILT_IN_DATASETS = ("shapes100",)
LR_BATCH = 256  # images a step that `--lr_scaling` scales from
IMAGE_SIZE = 32  # height and width, pixels
MAX_IMAGE_SIZE = 1024
AUGMENTATIONS = ("seed", "notebook", "crop", "cutout", "trivial", "randaugment", "strong", "none")
POLICY_FORMATS = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}
# Brightness, contrast, saturation, hue: mild enough to keep every colour its name. Albumentations' default hue of
# 0.5 turns any colour into any other.
COLOR_JITTER = (0.2, 0.2, 0.2, 0.02)
DEPTHS, CIFAR_DEPTHS = (18, 34, 50, 101, 152), (20, 32, 44, 56)
BLOCKS = ("basic", "bottleneck")
STEMS = ("cifar", "imagenet")


def check_augmentation(name):
    """Raises `ValueError` for a name that is neither a policy's nor a policy file's."""
    if name not in AUGMENTATIONS and Path(name).suffix not in POLICY_FORMATS:
        raise ValueError(
            f"unknown augmentation policy {name!r}: choose one of {', '.join(AUGMENTATIONS)}, "
            "or give a .yaml or .json file"
        )
