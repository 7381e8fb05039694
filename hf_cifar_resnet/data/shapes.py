"""The built-in dataset `shapes100`: ten shapes in ten colours, drawn from a seed, without a network."""

import colorsys
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from datasets import DatasetDict

IMAGE_SIZE = 32
SUPERSAMPLING = 4
AXIS = np.linspace(-0.5, 0.5, IMAGE_SIZE)
PER_CLASS = {"train": 50, "test": 10}  # images
VERSION = 1  # of the drawing, to be raised when an image changes, since the cache knows it by this alone
TILT = np.pi / 8  # radians either way
# A tenth of the colour circle apart, so that small hue shifts do not confuse them.
COLORS = ("red", "orange", "lime", "green", "mint", "cyan", "azure", "blue", "purple", "pink")


def _polygon(
    corners: int, radius: float | np.ndarray = 1.0, center: tuple[float, float] = (0.0, 0.0), sweep: float = 2 * np.pi
) -> np.ndarray:
    angles = sweep * np.arange(corners) / corners
    return np.stack([center[0] + radius * np.cos(angles), center[1] + radius * np.sin(angles)], axis=1)


def _box(x: float, y: float) -> np.ndarray:
    return np.array([(-x, -y), (x, -y), (x, y), (-x, y)], dtype=float)


# Each shape is a list of (outline in the unit circle, painted or cut out).
SHAPES = {
    "circle": [(_polygon(40, 0.9), True)],
    "ring": [(_polygon(40), True), (_polygon(40, 0.6), False)],
    "crescent": [(_polygon(40), True), (_polygon(40, 0.85, center=(0.5, 0.0)), False)],
    "dome": [(_polygon(40, center=(0.0, -0.4), sweep=np.pi), True)],
    "triangle": [(_polygon(3), True)],
    "square": [(_polygon(4), True)],
    "bar": [(_box(1, 0.25), True)],
    "cross": [(_box(1, 0.22), True), (_box(0.22, 1), True)],
    "star": [(_polygon(10, np.tile([1, 0.42], 5)), True)],
    "arrow": [
        (np.array([(-1, -0.18), (0.2, -0.18), (0.2, 0.18), (-1, 0.18)]), True),
        (np.array([(0.1, -0.75), (1, 0), (0.1, 0.75)]), True),
    ],
}
LABEL_NAMES = [f"{color} {shape}" for shape in SHAPES for color in COLORS]


def draw(label: int, rng: np.random.Generator) -> np.ndarray:
    """
    Return an image of class `label`, uint8 (32, 32, 3), with random position, scale, rotation, exact colour, background
    and noise.
    """
    shape, color = divmod(label, len(COLORS))
    hue = (color + rng.uniform(-0.12, 0.12)) / len(COLORS)
    foreground = _rgb(hue, rng.uniform(0.75, 1.0), rng.uniform(0.75, 1.0))
    coverage = _coverage(list(SHAPES.values())[shape], rng)[..., None]
    image = coverage * foreground + (1 - coverage) * _background(rng)
    image += rng.normal(0, 0.02, image.shape)
    return np.rint(image.clip(0, 1, out=image) * 255).astype(np.uint8)


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def _coverage(parts: list[tuple[np.ndarray, bool]], rng: np.random.Generator) -> np.ndarray:
    """Return the share of each pixel that the shape covers, (32, 32)."""
    size = IMAGE_SIZE * SUPERSAMPLING
    radius = size * rng.uniform(0.3, 0.45)
    center = size / 2 + rng.uniform(-1, 1, size=2) * (size * 0.48 - radius)
    angle = rng.uniform(-TILT, TILT)
    rotation = radius * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    mask = Image.new("L", (size, size))
    pen = ImageDraw.Draw(mask)
    for outline, painted in parts:
        pen.polygon((outline @ rotation + center).ravel().tolist(), fill=255 if painted else 0)
    return np.asarray(mask.reduce(SUPERSAMPLING), dtype=float) / 255


def _background(rng: np.random.Generator) -> np.ndarray:
    """Return a gradient between two pale colours, (32, 32, 3)."""
    ends = [_rgb(rng.uniform(), rng.uniform(0, 0.15), rng.uniform(0.2, 0.8)) for _ in range(2)]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = (0.5 + np.add.outer(AXIS * np.sin(angle), AXIS * np.cos(angle))).clip(0, 1)[..., None]
    return ramp * ends[0] + (1 - ramp) * ends[1]


def shapes100(seed: int = 0) -> "DatasetDict":
    """
    Return a `datasets.DatasetDict` of 100 classes, with 50 training and 10 test images of each, and the columns image,
    label and superclass (the shape). It is drawn once and kept in the `datasets` cache, or in memory if that fails.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, NamedSplit
    from datasets import Image as ImageFeature
    from datasets.exceptions import DatasetsError

    features = Features(
        image=ImageFeature(), label=ClassLabel(names=LABEL_NAMES), superclass=ClassLabel(names=list(SHAPES))
    )
    splits = {}
    for number, (split, per_class) in enumerate(PER_CLASS.items()):
        arguments = {"seed": seed, "number": number, "per_class": per_class, "version": VERSION}
        try:
            splits[split] = Dataset.from_generator(_rows, features, gen_kwargs=arguments, split=NamedSplit(split))
        except (OSError, ValueError, DatasetsError):  # where the cache is damaged or cannot be written
            splits[split] = Dataset.from_list(list(_rows(**arguments)), features, split=NamedSplit(split))
    return DatasetDict(splits)


def _rows(seed: int, number: int, per_class: int, version: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng([seed, number])
    for label in rng.permutation(np.repeat(np.arange(len(LABEL_NAMES)), per_class)).tolist():
        png = io.BytesIO()
        Image.fromarray(draw(label, rng)).save(png, format="PNG", compress_level=0)
        yield {"image": {"bytes": png.getvalue()}, "label": label, "superclass": label // len(COLORS)}
