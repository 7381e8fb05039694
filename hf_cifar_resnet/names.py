"""What the command line lists, apart from the code behind it, which takes seconds to load."""

DEFAULT_DATASET = "uoft-cs/cifar100"
BUILT_IN_DATASETS = ("shapes100",)
IMAGE_SIZE = 32  # height and width, pixels
AUGMENTATIONS = ("seed", "notebook", "crop", "cutout", "trivial", "randaugment", "strong", "none")
# Brightness, contrast, saturation, hue: mild enough to keep every colour its name. Albumentations' default hue of
# 0.5 turns any colour into any other.
COLOR_JITTER = (0.2, 0.2, 0.2, 0.02)
DEPTHS = (18, 34, 50, 101, 152)
BLOCKS = ("basic", "bottleneck")
STEMS = ("cifar", "imagenet")
