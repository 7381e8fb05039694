import copy
import random

import albumentations as A
import numpy as np
import pytest

from hf_cifar_resnet.data.policies import POLICIES, Augmenter, build_policy
from hf_cifar_resnet.data.transforms import FastColorJitter

NOISE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
RAMP = np.stack(np.broadcast_arrays(*np.ogrid[0:256:8, 0:256:8], 128), axis=-1).astype(np.uint8)
GREY = np.repeat(RAMP[..., :1], 3, axis=2)


def jitters(**ranges):
    """Ours and Albumentations' own."""
    return FastColorJitter(p=1.0, **ranges), A.ColorJitter(p=1.0, **ranges)


# Colour


@pytest.mark.parametrize("image", [NOISE, RAMP, GREY], ids=["noise", "ramp", "grey"])
@pytest.mark.parametrize("strength", [0.1, 1.0])
def test_colour_jitter_is_that_of_albumentations(image, strength):
    fast, stock = jitters()
    draw, differences = random.Random(0), []
    for _ in range(200):
        factors = {name: 1 + strength * draw.uniform(-1, 1) for name in ("brightness", "contrast", "saturation")}
        factors |= {"hue": 0.5 * strength * draw.uniform(-1, 1), "order": draw.sample(range(4), 4)}
        differences.append(np.abs(fast.apply(image, **factors).astype(int) - stock.apply(image, **factors)))
    assert np.array_equal(fast.apply(image, brightness=1, contrast=1, saturation=1, hue=0, order=[0, 1, 2, 3]), image)
    # A product cut off to one grey level or the next, which the steps of the hue may then enlarge.
    assert np.mean(np.array(differences) > 0) < 1e-3
    assert np.mean(np.array(differences) > 1) < 1e-5


def test_factors_and_orders_fill_their_ranges():
    ranges = {"brightness": (0.5, 0.7), "contrast": (0.8, 1.0), "saturation": (1.1, 1.2), "hue": (-0.1, 0.3)}
    jitter = FastColorJitter(p=1.0, **ranges)
    drawn = [jitter.get_params() for _ in range(1000)]
    for name, (low, high) in ranges.items():
        values = [params[name] for params in drawn]
        assert low <= min(values) < low + 0.1 * (high - low) and high - 0.1 * (high - low) < max(values) <= high
    assert len({tuple(params["order"]) for params in drawn}) == 24


# Without Compose's checks


POLICIES_OF_USERS = {
    "dropout and noise": [A.CoarseDropout(p=0.7), A.GaussNoise(p=0.5), A.RandomBrightnessContrast()],
    "geometry": [A.Affine(rotate=(-30, 30), p=0.8), A.RandomCrop(24, 24), A.Resize(32, 32), A.Transpose()],
    "groups": [A.OneOf([A.Blur(p=1), A.Posterize(p=1)], p=0.5), A.SomeOf([A.ToGray(p=1), A.Solarize(p=1)], n=1)],
    "nested": [A.Sequential([A.VerticalFlip(), A.ChannelShuffle()], p=0.5), A.Compose([A.Equalize()], p=0.5)],
    "depends on the image": [A.RandomResizedCrop((32, 32)), A.FancyPCA(p=1), A.GridDistortion(), A.PixelDropout(p=1)],
}


@pytest.mark.parametrize("name", [*POLICIES, *POLICIES_OF_USERS])
@pytest.mark.parametrize("p", [1.0, 0.5])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pixels_are_those_of_compose(name, p):
    def policy():
        transforms = POLICIES_OF_USERS[name] if name in POLICIES_OF_USERS else build_policy(name).transforms
        return A.Compose(copy.deepcopy(transforms), p=p)

    class Subclass(A.Compose):
        """What the Augmenter knows nothing of: it has to call it as it is."""

    direct, whole = Augmenter(policy(), seed=1), Augmenter(Subclass(policy().transforms, p=p), seed=1)
    for index in range(30):
        image = direct(NOISE.copy(), 2, index)
        assert np.array_equal(image, whole(NOISE.copy(), 2, index))
        assert image.flags.c_contiguous
