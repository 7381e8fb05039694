"""Augmentation policies by name, or from a file of Albumentations, and their reproducible application."""

import random
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np

from ..documents import read_json, read_yaml
from ..errors import explained, one_line
from .arguments import COLOR_JITTER, FORMER_POLICIES, POLICY_FORMATS, current_name
from .transforms import Cutout, FastColorJitter, PadAndCrop

PADDING = 4
# Area and aspect ratio of random erasing (Zhong et al. 2017, https://arxiv.org/abs/1708.04896, section 4.2).
ERASED_AREA, ERASED_RATIO = (0.02, 0.4), (0.3, 1 / 0.3)
# What Albumentations raises for a policy that it refuses, at the latest when it is applied.
_ALBUMENTATIONS_ERRORS = (
    UserWarning, cv2.error, ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError,
    OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip

Transforms = list[A.BasicTransform | A.BaseCompose]


def crop_and_flip() -> Transforms:
    """Return the usual CIFAR augmentation: pad by 4 black pixels, crop, flip (He et al. 2015, section 4.2)."""
    return [PadAndCrop(PADDING), A.HorizontalFlip(p=0.5)]


def color_and_shape(size: int, strength: float = 1.0) -> Transforms:
    """
    Return the 14 operations of TrivialAugment (Müller and Hutter 2021, https://arxiv.org/abs/2103.10158, table 8,
    "wide"), each with a random strength from 0 to `strength` times the paper's.
    """
    shear, rotation, shift = np.degrees(np.arctan(0.99 * strength)), 135 * strength, round(size * strength)
    factor = (1 - 0.99 * strength, 1 + 0.99 * strength)

    def color(**changed: tuple[float, float]) -> A.ColorJitter:
        unchanged: dict[str, Any] = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
        return A.ColorJitter(**unchanged | changed, p=1)

    transforms: Transforms = [
        A.NoOp(p=1),
        A.Affine(shear={"x": (-shear, shear), "y": (0, 0)}, p=1),
        A.Affine(shear={"x": (0, 0), "y": (-shear, shear)}, p=1),
        A.Affine(translate_px={"x": (-shift, shift), "y": (0, 0)}, p=1),
        A.Affine(translate_px={"x": (0, 0), "y": (-shift, shift)}, p=1),
        A.Rotate(limit=(-rotation, rotation), p=1),
        color(brightness=factor),
        color(contrast=factor),
        color(saturation=factor),
        A.Sharpen(alpha=(0, 0.99 * strength), lightness=(1, 1), p=1),
        A.Posterize(num_bits=(round(8 - 6 * strength), 8), p=1),
        A.Solarize(threshold_range=(1 - strength, 1), p=1),
        A.AutoContrast(p=1),
        A.Equalize(p=1),
    ]
    return transforms


def _crop_flip_hole_or_noise(size: int, jitter: Sequence[float]) -> Transforms:
    """Return the original notebook's policy. Albumentations ignored its argument names, so the strengths are ours."""
    hole = (size // 4, size // 4)
    dropout = A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=hole, hole_width_range=hole, fill=0, p=1.0)
    return [*crop_and_flip(), A.OneOf([dropout, A.GaussNoise(std_range=(0.02, 0.08), p=1.0)], p=0.5)]


# Each takes the size of the images and the strengths of the colour jitter, and returns the transforms.
POLICIES: dict[str, Callable[[int, Sequence[float]], Transforms]] = {
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


def build_policy(
    name: str,
    image_size: int = 32,
    color_jitter: Sequence[float] = COLOR_JITTER,
    random_erasing: float = 0.0,
) -> A.Compose:
    """
    Return the `A.Compose` of a policy, from uint8 image to uint8 image of the same size.

    Args:
        name: one of `POLICIES`, or a YAML or JSON file that Albumentations wrote (`albumentations.save`).
        image_size: height and width in pixels.
        color_jitter: the four strengths of brightness, contrast, saturation (0 to 1) and hue (0 to 0.5) of policy
            `crop_flip_jitter`.
        random_erasing: probability of filling a rectangle of each image with noise, after the policy.

    Raises:
        ValueError: for an unknown name, a file without a policy that fits, or an argument that Albumentations refuses.
    """
    if len(color_jitter) != 4 or not all(0 <= s <= 1 for s in color_jitter) or color_jitter[3] > 0.5:
        raise ValueError(f"color_jitter needs four strengths, 0 to 1 and hue 0 to 0.5, got {list(color_jitter)}")
    if not 0 <= random_erasing <= 1:
        raise ValueError(f"random_erasing must be a probability, 0 to 1, got {random_erasing}")
    make = POLICIES.get(current_name("augmentation policy", name, FORMER_POLICIES))
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


def _describe_transform(transform: Any) -> str:
    if isinstance(transform, A.BaseCompose):
        return describe(transform)
    name = type(transform).__name__.removeprefix("Fast")
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower()


class Augmenter:
    """
    Apply a policy with random numbers that depend on (seed, epoch, index) alone.

    Albumentations ignores global seeds, and its own seed would repeat in every worker and epoch. Here all transforms
    share one counter-based generator (Philox, Salmon et al. 2011), which is reset for each image.

    Args:
        policy: from uint8 image to uint8 image of the same size.
        seed: 0 to 2**32 - 1.
    """

    def __init__(self, policy: A.Compose, seed: int = 0):
        self.policy = policy
        self.seed = seed
        self._bits = np.random.Philox()
        self._py_random = random.Random()
        self._state: Any = dict(self._bits.state) | {"buffer_pos": 4, "has_uint32": 0}
        policy.set_random_state(np.random.Generator(self._bits), self._py_random)

    def __call__(self, image: np.ndarray, epoch: int, index: int) -> np.ndarray:
        """Return an augmented copy of a contiguous uint8 image (height, width, 3)."""
        state = self._state["state"]
        state["key"][:] = self.seed, epoch
        state["counter"][:] = 0, index, 0, 0
        self._bits.state = self._state
        # The leading 1 gives all seeds the same length; seeds of different lengths may give the same numbers.
        self._py_random.seed(1 << 96 | self.seed << 64 | epoch << 32 | index)
        # This equals calling the policy without its checks, which take as long as a transform of a small image.
        if self._py_random.random() >= self.policy.p:
            return image
        for transform in self.policy.transforms:
            image = transform(image=image)["image"]
        return image


def _read(name: str, image_size: int) -> A.BaseCompose | A.BasicTransform:
    """Return the policy in a file, after trying it out on an image of this size."""
    path = Path(name)
    if not path.exists():
        raise ValueError(f"there is no augmentation policy file {path}")
    refused = f"{path} holds no Albumentations policy that fits"
    with explained(refused, OSError, ValueError):
        content = {"yaml": read_yaml, "json": read_json}[POLICY_FORMATS[path.suffix]](path)
    policy, without_chance = _build(content, refused), _build(content, refused)
    _remove_chance(without_chance)
    image = np.zeros((image_size, image_size, 3), dtype=np.uint8)
    for trial in 5 * (policy, without_chance):
        try:
            made = trial(image=image)["image"]
        except _ALBUMENTATIONS_ERRORS as error:
            raise ValueError(f"{refused}: {type(error).__name__}: {one_line(error)}") from error
        if not isinstance(made, np.ndarray) or (made.shape, made.dtype) != (image.shape, image.dtype):
            raise ValueError(
                f"{refused}: it must make uint8 images of {image.shape} from such images, but made {made.dtype} "
                f"{tuple(made.shape)}; normalising and batching come after it"
            )
    return policy


def _build(content: dict[str, Any], refused: str) -> Any:
    try:
        with warnings.catch_warnings():
            # Albumentations warns about unknown arguments and then uses its defaults.
            warnings.simplefilter("error", UserWarning)
            return A.from_dict(content)  # builds nothing but transforms from Albumentations' registry
    except _ALBUMENTATIONS_ERRORS as error:
        raise ValueError(f"{refused}: {type(error).__name__}: {one_line(error)}") from error


def _remove_chance(transform: Any) -> None:
    """Apply every transform that may be applied always, so that the rare ones are tried out too."""
    transform.p = float(transform.p > 0)
    if isinstance(transform, A.BaseCompose):
        for inner in transform.transforms:
            _remove_chance(inner)
