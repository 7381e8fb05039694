"""Transforms of Albumentations for small images: faster versions of its own, and Cutout."""

from collections.abc import Callable
from functools import lru_cache
from itertools import permutations
from typing import Any

import albumentations as A
import cv2
import numpy as np

# OpenCV would start its own threads in every worker process.
cv2.setNumThreads(0)

_ORDERS = tuple(permutations(range(4)))
_HUES = 180  # OpenCV counts the hue of a uint8 image in steps of two degrees


class PadAndCrop(A.ImageOnlyTransform):
    """A random crop of the image's own size after padding with black: `A.Pad` and `A.RandomCrop` in one step."""

    class InitSchema(A.ImageOnlyTransform.InitSchema):
        padding: int

    def __init__(self, padding: int = 4, p: float = 1.0):
        super().__init__(p=p)
        self.padding = padding

    def get_params(self) -> dict[str, int]:
        places = 2 * self.padding + 1
        return {name: int(self.py_random.random() * places) - self.padding for name in ("down", "right")}

    def apply(self, img: np.ndarray, down: int, right: int, **params: Any) -> np.ndarray:
        (height, width), border = img.shape[:2], self.padding
        padded = cv2.copyMakeBorder(img, border, border, border, border, cv2.BORDER_CONSTANT, value=0)
        top, left = border + down, border + right
        return np.ascontiguousarray(padded[top : top + height, left : left + width])


class Cutout(A.ImageOnlyTransform):
    """
    A black square of `length` pixels with a uniform centre, clipped at the border (DeVries and Taylor 2017,
    https://arxiv.org/abs/1708.04552).
    """

    class InitSchema(A.ImageOnlyTransform.InitSchema):
        length: int

    def __init__(self, length: int = 8, p: float = 1.0):
        super().__init__(p=p)
        self.length = length

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        return {"center": [int(self.random_generator.integers(size)) for size in params["shape"][:2]]}

    def apply(self, img: np.ndarray, center: list[int], **params: Any) -> np.ndarray:
        rows, columns = (slice(max(0, c - self.length // 2), c - self.length // 2 + self.length) for c in center)
        img = img.copy()
        img[rows, columns] = 0
        return img


class FastColorJitter(A.ColorJitter):
    """`A.ColorJitter` with a quarter of the passes over the image; the results differ by at most one grey level."""

    def get_params(self) -> dict[str, Any]:
        factors = {name: self.py_random.uniform(*getattr(self, name)) for name, _, _ in _ADJUSTMENTS}
        return factors | {"order": _ORDERS[int(self.py_random.random() * len(_ORDERS))]}

    def apply(  # pyright: ignore[reportIncompatibleMethodOverride] (its parameters are what `get_params` returns)
        self, img: np.ndarray, order: tuple[int, ...], **params: Any
    ) -> np.ndarray:
        for name, adjust, neutral in (_ADJUSTMENTS[number] for number in order):
            if params[name] != neutral:
                img = adjust(img, params[name])
        return img


# Albumentations truncates brightness and contrast, and OpenCV rounds: hence the -0.5.


def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.convertScaleAbs(image, alpha=factor, beta=-0.5)


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
    return cv2.addWeighted(image, factor, image, 0.0, mean * (1 - factor) - 0.5)


def _saturation(image: np.ndarray, factor: float) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0.0)


def _hue(image: np.ndarray, factor: float) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, _hue_table(int(np.floor(_HUES * factor)))), cv2.COLOR_HSV2RGB)


@lru_cache(maxsize=_HUES + 1)
def _hue_table(shift: int) -> np.ndarray:
    """Return the lookup table of hue, saturation and value for a shift of the hue: uint8 (256, 1, 3)."""
    values = np.arange(256)
    return np.stack([(values + shift) % _HUES, values, values], axis=1).astype(np.uint8)[:, None]


# Each with its function and the factor that changes nothing.
_ADJUSTMENTS: tuple[tuple[str, Callable[[np.ndarray, float], np.ndarray], int], ...] = (
    ("brightness", _brightness, 1),
    ("contrast", _contrast, 1),
    ("saturation", _saturation, 1),
    ("hue", _hue, 0),
)
