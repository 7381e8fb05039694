"""Faster versions of Albumentations transforms for small images."""

from functools import lru_cache
from itertools import permutations

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

    def __init__(self, padding=4, p=1.0):
        super().__init__(p=p)
        self.padding = padding

    def get_params(self):
        places = 2 * self.padding + 1
        return {way: int(self.py_random.random() * places) - self.padding for way in ("down", "right")}

    def apply(self, img, down, right, **params):
        (height, width), border = img.shape[:2], self.padding
        padded = cv2.copyMakeBorder(img, border, border, border, border, cv2.BORDER_CONSTANT, value=0)
        top, left = border + down, border + right
        return np.ascontiguousarray(padded[top : top + height, left : left + width])


class FastColorJitter(A.ColorJitter):
    """`A.ColorJitter` with a quarter of the passes over the image; the results differ by at most one grey level."""

    def get_params(self):
        factors = {name: self.py_random.uniform(*getattr(self, name)) for name, _, _ in _ADJUSTMENTS}
        return factors | {"order": _ORDERS[int(self.py_random.random() * len(_ORDERS))]}

    def apply(self, img, order, **params):
        for name, adjust, neutral in (_ADJUSTMENTS[number] for number in order):
            if params[name] != neutral:
                img = adjust(img, params[name])
        return img


# Albumentations truncates brightness and contrast, and OpenCV rounds: hence the -0.5.


def _brightness(image, factor):
    return cv2.convertScaleAbs(image, alpha=factor, beta=-0.5)


def _contrast(image, factor):
    mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
    return cv2.addWeighted(image, factor, image, 0.0, mean * (1 - factor) - 0.5)


def _saturation(image, factor):
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0.0)


def _hue(image, factor):
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, _hue_table(int(np.floor(_HUES * factor)))), cv2.COLOR_HSV2RGB)


@lru_cache(maxsize=_HUES + 1)
def _hue_table(shift):
    """Return the lookup table of hue, saturation and value for a shift of the hue: uint8 (256, 1, 3)."""
    values = np.arange(256)
    return np.stack([(values + shift) % _HUES, values, values], axis=1).astype(np.uint8)[:, None]


# Each with its function and the factor that changes nothing.
_ADJUSTMENTS = (
    ("brightness", _brightness, 1),
    ("contrast", _contrast, 1),
    ("saturation", _saturation, 1),
    ("hue", _hue, 0),
)
