"""Augmentation policies: by name, or from a file of Albumentations."""

import re
import warnings
from pathlib import Path

import albumentations as A
import numpy as np

from ..choices import COLOR_JITTER, POLICY_FORMATS, current_name
from ..documents import read_json, read_yaml
from ..errors import one_line
from .transforms import FastColorJitter, PadAndCrop

PADDING = 4
# Area and aspect ratio of random erasing (Zhong et al. 2017, https://arxiv.org/abs/1708.04896, section 4.2).
ERASED_AREA, ERASED_RATIO = (0.02, 0.4), (0.3, 1 / 0.3)


class Cutout(A.ImageOnlyTransform):
    """
    A black square of `length` pixels with a uniform centre, clipped at the border (DeVries and Taylor 2017,
    https://arxiv.org/abs/1708.04552).
    """

    class InitSchema(A.ImageOnlyTransform.InitSchema):
        length: int

    def __init__(self, length=8, p=1.0):
        super().__init__(p=p)
        self.length = length

    def get_params_dependent_on_data(self, params, data):
        return {"centre": [int(self.random_generator.integers(size)) for size in params["shape"][:2]]}

    def apply(self, img, centre, **params):
        rows, columns = (slice(max(0, c - self.length // 2), c - self.length // 2 + self.length) for c in centre)
        img = img.copy()
        img[rows, columns] = 0
        return img


def crop_and_flip():
    """Return the usual CIFAR augmentation: pad by 4 black pixels, crop, flip (He et al. 2015, section 4.2)."""
    return [PadAndCrop(PADDING), A.HorizontalFlip(p=0.5)]


def color_and_shape(size, strength=1.0):
    """
    Return the 14 operations of TrivialAugment (Müller and Hutter 2021, https://arxiv.org/abs/2103.10158, table 8,
    "wide"), each with a random strength from 0 to `strength` times the paper's.
    """
    shear, rotation, shift = np.degrees(np.arctan(0.99 * strength)), 135 * strength, round(size * strength)
    factor = (1 - 0.99 * strength, 1 + 0.99 * strength)
    plain = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0), "p": 1}
    return [
        A.NoOp(p=1),
        A.Affine(shear={"x": (-shear, shear), "y": (0, 0)}, p=1),
        A.Affine(shear={"x": (0, 0), "y": (-shear, shear)}, p=1),
        A.Affine(translate_px={"x": (-shift, shift), "y": (0, 0)}, p=1),
        A.Affine(translate_px={"x": (0, 0), "y": (-shift, shift)}, p=1),
        A.Rotate(limit=(-rotation, rotation), p=1),
        A.ColorJitter(**plain | {"brightness": factor}),
        A.ColorJitter(**plain | {"contrast": factor}),
        A.ColorJitter(**plain | {"saturation": factor}),
        A.Sharpen(alpha=(0, 0.99 * strength), lightness=(1, 1), p=1),
        A.Posterize(num_bits=(round(8 - 6 * strength), 8), p=1),
        A.Solarize(threshold_range=(1 - strength, 1), p=1),
        A.AutoContrast(p=1),
        A.Equalize(p=1),
    ]


def _crop_flip_hole_or_noise(size, jitter):
    """Return the original notebook's policy. Albumentations ignored its argument names, so the strengths are ours."""
    hole = (size // 4, size // 4)
    dropout = A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=hole, hole_width_range=hole, fill=0, p=1.0)
    return [*crop_and_flip(), A.OneOf([dropout, A.GaussNoise(std_range=(0.02, 0.08), p=1.0)], p=0.5)]


# Each takes the size of the images and the strengths of the colour jitter, and returns the transforms.
POLICIES = {
    "crop_flip_jitter": lambda size, jitter: [*crop_and_flip(), FastColorJitter(*jitter, p=1.0)],
    "crop_flip_hole_or_noise": _crop_flip_hole_or_noise,
    "crop_flip": lambda size, jitter: crop_and_flip(),
    # For classes that are each other's mirror images, such as arrows, or no longer themselves, such as letters.
    "crop_only": lambda size, jitter: [PadAndCrop(PADDING)],
    # A square of half the width, as the paper has for CIFAR-10.
    "cutout": lambda size, jitter: [*crop_and_flip(), Cutout(size // 2)],
    "trivial": lambda size, jitter: [*crop_and_flip(), A.OneOf(color_and_shape(size), p=1)],
    # Two operations, as in RandAugment (Cubuk et al. 2019, https://arxiv.org/abs/1909.13719), whose strengths are
    # random, up to a third of TrivialAugment's, instead of fixed.
    "randaugment": lambda size, jitter: [*crop_and_flip(), A.SomeOf(color_and_shape(size, 1 / 3), n=2, replace=True)],
    # One operation up to half of TrivialAugment's strengths, and a square of a quarter of the width.
    "mild_trivial_cutout": lambda size, jitter: [
        *crop_and_flip(),
        A.OneOf(color_and_shape(size, 0.5), p=1),
        Cutout(size // 4),
    ],
    "none": lambda size, jitter: [],
}


def build_policy(name, image_size=32, color_jitter=COLOR_JITTER, random_erasing=0.0):
    """
    Return the `A.Compose` of a policy, from uint8 image to uint8 image of the same size.

    Args:
        name (`str`): one of `POLICIES`, or a YAML or JSON file that Albumentations wrote (`albumentations.save`).
        image_size (`int`): height and width in pixels.
        color_jitter (four floats): strengths of brightness, contrast, saturation (0 to 1) and hue (0 to 0.5) of policy
            `crop_flip_jitter`.
        random_erasing (`float`): probability of filling a rectangle of each image with noise, after the policy.

    Raises:
        ValueError: for an unknown name, a file without a policy that fits, or an argument that Albumentations refuses.
    """
    if len(color_jitter) != 4 or not all(0 <= s <= 1 for s in color_jitter) or color_jitter[3] > 0.5:
        raise ValueError(f"color_jitter needs four strengths, 0 to 1 and hue 0 to 0.5, got {list(color_jitter)}")
    if not 0 <= random_erasing <= 1:
        raise ValueError(f"random_erasing must be a probability, 0 to 1, got {random_erasing}")
    make = POLICIES.get(current_name("augmentation policy", name))
    transforms = make(image_size, color_jitter) if make else [_read(name, image_size)]
    if random_erasing:
        transforms.append(A.Erasing(ERASED_AREA, ERASED_RATIO, fill="random", p=random_erasing))
    return A.Compose(transforms)


def describe(policy: A.BaseCompose) -> str:
    """Return what a policy does, such as "pad and crop, horizontal flip"; for images left as they are, nothing."""
    parts = list(dict.fromkeys(map(_describe_transform, policy.transforms)))  # those of one name differ in strength
    if isinstance(policy, A.OneOf):
        return f"one of ({', '.join(parts)})" if len(parts) > 2 else " or ".join(parts)
    return f"{policy.n} of ({', '.join(parts)})" if isinstance(policy, A.SomeOf) else ", ".join(parts)


def _describe_transform(transform):
    if isinstance(transform, A.BaseCompose):
        return describe(transform)
    name = type(transform).__name__.removeprefix("Fast")
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _read(name, image_size):
    """Return the policy in a file, after trying it out on an image of this size."""
    path = Path(name)
    if not path.exists():
        raise ValueError(f"there is no augmentation policy file {path}")
    image = np.zeros((image_size, image_size, 3), dtype=np.uint8)
    try:
        content = {"yaml": read_yaml, "json": read_json}[POLICY_FORMATS[path.suffix]](path)
        with warnings.catch_warnings():
            # Albumentations warns about unknown arguments and then uses its defaults.
            warnings.simplefilter("error", UserWarning)
            policy = A.from_dict(content)  # builds nothing but transforms from Albumentations' registry
        for trial in 5 * (policy, _without_chance(A.from_dict(content))):
            made = trial(image=image)["image"]
            if getattr(made, "shape", None) != image.shape or made.dtype != image.dtype:
                raise ValueError(
                    f"it must make uint8 images of {image.shape} from such images, but made {made.dtype} "
                    f"{tuple(made.shape)}; normalising and batching come after it"
                )
    except Exception as error:  # pydantic and Albumentations raise errors of any type
        kind = type(error).__name__
        raise ValueError(f"{path} holds no Albumentations policy that fits: {kind}: {one_line(error)}") from error
    return policy


def _without_chance(transform):
    """Return a policy of which every transform that may be applied is, so that the rare ones are tried out too."""
    transform.p = float(transform.p > 0)
    for inner in transform.transforms if isinstance(transform, A.BaseCompose) else ():
        _without_chance(inner)
    return transform
