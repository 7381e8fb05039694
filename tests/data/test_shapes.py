import io

import cv2
import numpy as np
import pytest
from PIL import Image

from hf_cifar_resnet.data.policies import Augmenter, build_policy
from hf_cifar_resnet.data.shapes import COLORS, shapes100


@pytest.fixture(scope="module")
def raw():
    return shapes100()


@pytest.fixture(scope="module")
def images(raw):
    """Split -> uint8 (n, 32, 32, 3)."""
    return {
        name: np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in encoded(part)])
        for name, part in raw.items()
    }


def encoded(part):
    from datasets import Image as ImageFeature

    return part.cast_column("image", ImageFeature(decode=False))["image"][:]


def nearest_colour(image):
    """Number of the colour nearest to the hue of the most saturated pixels."""
    hue, saturation, _ = cv2.split(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV))
    strongest = np.argsort(saturation, axis=None)[-20:]
    mean = np.exp(1j * np.deg2rad(hue.ravel()[strongest])).mean()
    return round(np.angle(mean) / (2 * np.pi) * len(COLORS)) % len(COLORS)


def test_a_hundred_balanced_classes(raw, images):
    assert len(set(raw["train"].features["label"].names)) == 100
    for split, each in (("train", 50), ("test", 10)):
        assert np.bincount(raw[split]["label"][:]).tolist() == [each] * 100
        assert (images[split].shape, images[split].dtype) == ((100 * each, 32, 32, 3), np.uint8)
    # Within and across splits they differ.
    assert len({image.tobytes() for part in images.values() for image in part}) == 6000


def test_the_seed_decides_every_pixel(tmp_path, monkeypatch):
    """Of two images for each class, which are drawn anew each time, in a cache of their own."""
    monkeypatch.setattr("hf_cifar_resnet.data.shapes.PER_CLASS", {"train": 2})
    drawn = []
    for number, seed in enumerate((0, 0, 1)):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / str(number))
        part = shapes100(seed)["train"]
        drawn.append([(row["bytes"], label) for row, label in zip(encoded(part), part["label"][:], strict=True)])
    first, again, other = drawn
    assert again == first and len(first) == 200 and not set(first) & set(other)


def test_superclass_is_the_shape(raw):
    for part in raw.values():
        names = part.features["label"].names
        shapes = part.features["superclass"].names
        assert len(shapes) == 10
        for label, superclass in zip(part["label"][:], part["superclass"][:], strict=True):
            assert names[label].split()[1] == shapes[superclass]


@pytest.mark.parametrize("policy", ["none", "crop_flip_jitter"])
def test_classes_differ_by_hue(raw, images, policy):
    names = raw["test"].features["label"].names
    augment = Augmenter(build_policy(policy))
    right = [
        names[label].split()[0] == COLORS[nearest_colour(augment(image, 0, index))]
        for index, (label, image) in enumerate(zip(raw["test"]["label"][:], images["test"], strict=True))
    ]
    assert np.mean(right) >= 0.95
