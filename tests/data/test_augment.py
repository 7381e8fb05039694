import random
from collections import Counter

import cv2
import numpy as np
import pytest
import torch

from hf_cifar_resnet.data.arguments import COLOR_JITTER
from hf_cifar_resnet.data.policies import POLICIES, Augmenter, build_policy

IMAGE = np.random.default_rng(0).integers(1, 256, (32, 32, 3), dtype=np.uint8)
random_policies = pytest.mark.parametrize("name", [name for name in POLICIES if name != "none"])


def augmented(name, seed=0, epoch=0, index=0):
    return Augmenter(build_policy(name), seed)(IMAGE, epoch, index)


@random_policies
@pytest.mark.parametrize("varied", ["seed", "epoch", "index"])
def test_another_seed_epoch_or_index_gives_other_pixels(name, varied):
    different = {augmented(name, **{varied: value}).tobytes() for value in range(40)}
    # Two crops can coincide: there are 162 with their flips.
    assert len(different) >= 25


@random_policies
def test_seed_epoch_and_index_alone_decide_every_pixel(name):
    """Neither the libraries' own random numbers nor what was augmented before."""
    augment = Augmenter(build_policy(name), seed=2**32 - 1)
    forward = [augment(IMAGE, 10_000, index) for index in range(40)]
    augment(255 - IMAGE, 9, 9)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    backward = [augment(IMAGE, 10_000, index) for index in reversed(range(40))]
    assert np.array_equal(forward, backward[::-1])
    assert np.array_equal(forward[7], augmented(name, seed=2**32 - 1, epoch=10_000, index=7))


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("size", [32, 24])
def test_shape_and_type_stay(name, size):
    image = IMAGE[:size, :size]
    before = image.copy()
    augment = Augmenter(build_policy(name, image_size=size))
    for index in range(20):
        result = augment(image, 0, index)
        assert result.shape == (size, size, 3) and result.dtype == np.uint8
    assert np.array_equal(image, before)


def test_crops_are_shifts_of_the_padded_image():
    padded = np.pad(IMAGE, ((4, 4), (4, 4), (0, 0)))
    crops = {}
    for top in range(9):
        for left in range(9):
            crop = padded[top : top + 32, left : left + 32]
            crops[crop.tobytes()] = (top, left, False)
            crops[crop[:, ::-1].tobytes()] = (top, left, True)
    augment = Augmenter(build_policy("crop_flip_jitter", color_jitter=(0, 0, 0, 0)))
    seen = [crops[augment(IMAGE, 0, index).tobytes()] for index in range(600)]
    tops, lefts, flips = (Counter(values) for values in zip(*seen, strict=True))
    assert set(tops) == set(lefts) == set(range(9))
    assert max(tops.values()) < 120 and max(lefts.values()) < 120
    assert 240 < flips[True] < 360
    assert len(set(seen)) > 140


def hue_shifts(hue, value, color_jitter):
    """How far, in degrees, 300 augmentations move the hue of an image of one colour."""
    colour = cv2.cvtColor(np.array([[[hue, 1, value]]], dtype=np.float32), cv2.COLOR_HSV2RGB)
    image = np.broadcast_to(np.rint(colour * 255).astype(np.uint8), (32, 32, 3)).copy()
    augment = Augmenter(build_policy("crop_flip_jitter", color_jitter=color_jitter))
    centres = np.stack([augment(image, 0, index)[16, 16] for index in range(300)])[None]
    moved = cv2.cvtColor(centres.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[0, :, 0] - hue
    return np.abs((moved + 180) % 360 - 180)


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("value", [0.75, 1.0])
def test_colours_keep_their_hue(number, value):
    """Ten colours 36 degrees apart: none becomes its neighbour, but for a few that are clipped at full brightness."""
    kept = hue_shifts(36.0 * number, value, COLOR_JITTER) < 18
    assert kept.all() if value < 1 else kept.mean() >= 0.98


@pytest.mark.parametrize("strength", [0.0, 0.02, 0.1])
def test_hue_moves_by_no_more_than_its_strength(strength):
    furthest = max(hue_shifts(36.0 * number, 0.8, (0, 0, 0, strength)).max() for number in range(10))
    # OpenCV counts hue in steps of two degrees.
    assert 0.75 * 360 * strength <= furthest <= 360 * strength + 2


def test_policy_cuts_a_hole_or_adds_noise_or_neither():
    grey = np.full((32, 32, 3), 200, dtype=np.uint8)
    augment = Augmenter(build_policy("crop_flip_hole_or_noise"))
    kinds = Counter()
    whole_holes = 0
    for index in range(400):
        image = augment(grey, 0, index)
        # The padding never reaches these pixels; every hole does.
        centre = image[4:28, 4:28]
        if not np.isin(image, (0, 200)).all():
            kinds["noise"] += 1
            assert np.abs(centre.astype(int) - 200).max() < 150
        elif (centre == 0).any():
            kinds["hole"] += 1
            rows, columns = np.nonzero((centre == 0).all(-1))
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert len(rows) == height * width and max(height, width) <= 8
            whole_holes += height == width == 8
        else:
            kinds["neither"] += 1
    assert 140 < kinds["neither"] < 260
    assert kinds["hole"] > 60 and kinds["noise"] > 60
    assert whole_holes > 10
