import random
from collections import Counter

import albumentations as A
import numpy as np
import pytest

from hf_cifar_resnet.data.arguments import AUGMENTATIONS
from hf_cifar_resnet.data.policies import Augmenter, Cutout, build_policy, color_and_shape, describe

IMAGE = np.random.default_rng(0).integers(1, 256, (32, 32, 3), dtype=np.uint8)
GREY = np.full((32, 32, 3), 200, dtype=np.uint8)


def augment_many(policy, image, count=300):
    augment = Augmenter(policy)
    return [augment(image, 0, index) for index in range(count)]


# Cutout


@pytest.mark.parametrize("length", [1, 15, 16])
def test_cutout_is_one_black_square_with_a_uniform_centre(length):
    areas, touched = [], np.zeros((32, 32))
    for image in augment_many(A.Compose([Cutout(length)]), IMAGE, 2000):
        hole = (image == 0).all(-1)
        assert np.array_equal(image[~hole], IMAGE[~hole])
        rows, columns = np.nonzero(hole)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) == height * width and max(height, width) <= length
        areas.append(len(rows))
        touched += hole
    # Whole where it fits, cut off at the border, never less than a quarter.
    assert max(areas) == length**2 and min(areas) >= (length // 2) ** 2
    # A pixel in the middle is covered by each of length * length centres.
    assert touched[8:24, 8:24].mean() / 2000 == pytest.approx((length / 32) ** 2, rel=0.15)
    # The corner by a quarter of them.
    assert length == 1 or touched[0, 0] < 0.5 * touched[12:20, 12:20].mean()


def test_policy_cutout_has_a_hole_of_half_the_width():
    for size in (32, 24):
        image = np.full((size, size, 3), 200, dtype=np.uint8)
        # The padding that the crop lets in is black too, but never reaches the inner part.
        black = [(made == 0).all(-1)[4:-4, 4:-4].sum() for made in augment_many(build_policy("cutout", size), image)]
        assert max(black) == (size // 2) ** 2 and min(black) > 0


# Random erasing


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_random_erasing_fills_a_rectangle_with_noise(probability):
    erased = 0
    for image in augment_many(build_policy("none", random_erasing=probability), GREY, 400):
        changed = (image != 200).any(-1)
        if not changed.any():
            continue
        erased += 1
        rows, columns = np.nonzero(changed)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) > 0.9 * height * width
        assert 0.01 < height * width / 32**2 < 0.42
        assert 0.25 < height / width < 4
        assert image[changed].std() > 30 or len(rows) < 40
    assert erased / 400 == pytest.approx(probability, abs=0.08)


# Operations on colour and shape


def test_strength_nothing_changes_nothing_but_what_has_no_strength():
    """Equalising and stretching the contrast are on or off."""
    # Solarizing turns pure white at any strength.
    grey = np.minimum(IMAGE, 254)
    for transform in color_and_shape(32, strength=0.0)[:-2]:
        for image in augment_many(A.Compose([transform]), grey, 5):
            assert np.abs(image.astype(int) - grey).max() <= 1, transform


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_shapes_stay_within_their_strength(strength):
    """A dot in the middle: how far it is moved, and by shears and rotations not at all."""
    image = np.zeros((33, 33, 3), dtype=np.uint8)
    image[16, 16] = 255
    named = dict(
        zip(("shear x", "shear y", "shift x", "shift y", "rotate"), color_and_shape(33, strength)[1:6], strict=True)
    )
    for name, transform in named.items():
        for made in augment_many(A.Compose([transform]), image, 60):
            rows, columns = np.nonzero(made[..., 0] > 60)
            if "shift" not in name:
                assert np.abs([rows.mean() - 16, columns.mean() - 16]).max() <= 1, name
            elif len(rows):
                moved, stays = (columns, rows) if name == "shift x" else (rows, columns)
                assert np.abs(moved - 16).max() <= 33 * strength + 1 and (stays == 16).all()


def test_colours_stay_within_their_strength():
    brightness, contrast, saturation = color_and_shape(32, 0.5)[6:9]
    image = np.broadcast_to(np.array([100, 120, 140], dtype=np.uint8), (32, 32, 3)).copy()
    for made in augment_many(A.Compose([brightness]), image, 60):
        assert np.abs(made[0, 0] / image[0, 0] - 1).max() <= 0.5
    for made in augment_many(A.Compose([contrast]), image, 60):
        assert np.abs(made.mean() - 120) <= 4
    for made in augment_many(A.Compose([saturation]), image, 60):
        assert 18 <= int(made[0, 0].max()) - int(made[0, 0].min()) <= 62


def test_posterized_and_solarized():
    posterize, solarize = color_and_shape(32, 1.0)[10:12]
    for made in augment_many(A.Compose([posterize]), IMAGE, 40):
        levels = np.unique(made)
        # From two bits, four levels, up.
        assert len(levels) >= 4 and len(levels) in (4, 8, 16, 32, 64, 128, 255, 256)
        assert (made <= IMAGE).all()
    for made in augment_many(A.Compose([solarize]), IMAGE, 40):
        assert ((made == IMAGE) | (made == 255 - IMAGE)).all()


@pytest.mark.parametrize("name, operations", [("trivial", 1), ("randaugment", 2), ("mild_trivial_cutout", 1)])
def test_every_operation_has_its_share(name, operations):
    """Told from what Albumentations says it applied."""
    policy = build_policy(name)
    policy.save_applied_params = True
    policy.set_random_state(np.random.default_rng(0), random.Random(0))
    counts = Counter()
    for _ in range(600):
        result = policy(image=IMAGE)
        applied = [kind for kind, _ in result["applied_transforms"]]
        applied = [kind for kind in applied if kind not in ("PadAndCrop", "HorizontalFlip", "Cutout")]
        assert len(applied) == operations
        counts.update(applied)
    total = 600 * operations
    expected = {"NoOp": 1, "Affine": 4, "Rotate": 1, "ColorJitter": 3, "Sharpen": 1, "Posterize": 1, "Solarize": 1,
                "AutoContrast": 1, "Equalize": 1}  # fmt: skip
    assert set(counts) == set(expected)
    for kind, share in expected.items():
        assert counts[kind] / total == pytest.approx(share / 14, rel=0.5), kind


# What a policy does, in words


def applied_names(policy):
    policy.save_applied_params = True
    policy.set_random_state(np.random.default_rng(0), random.Random(0))
    return {kind for _ in range(200) for kind, _ in policy(image=IMAGE)["applied_transforms"]}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_description_reports_whether_images_are_mirrored(name):
    policy = build_policy(name)
    assert ("horizontal flip" in describe(policy)) == ("HorizontalFlip" in applied_names(policy))


def test_classes_that_are_mirror_images_stay_apart():
    padded = np.pad(IMAGE, ((4, 4), (4, 4), (0, 0)))
    crops = {padded[top : top + 32, left : left + 32].tobytes() for top in range(9) for left in range(9)}
    assert all(image.tobytes() in crops for image in augment_many(build_policy("crop_only"), IMAGE))


@pytest.mark.parametrize(
    "transforms, words",
    [
        ([], ""),
        ([A.OneOf([A.CoarseDropout(), A.GaussNoise()])], "coarse dropout or gauss noise"),
        ([A.Compose([A.Rotate(), A.OneOf([A.VerticalFlip(), A.HorizontalFlip(), A.CLAHE()])])],
         "rotate, one of (vertical flip, horizontal flip, clahe)"),
        ([A.SomeOf([A.Transpose(), A.D4(), A.HorizontalFlip()], n=2)], "2 of (transpose, d4, horizontal flip)"),
    ],
)  # fmt: skip
def test_description_of_a_policy_of_ones_own(tmp_path, transforms, words):
    path = str(tmp_path / "mine.yaml")
    A.save(A.Compose(transforms), path, data_format="yaml")
    assert describe(build_policy(path)) == words


# Policies from files


@pytest.mark.parametrize("ending, data_format", [("yaml", "yaml"), ("yml", "yaml"), ("json", "json")])
def test_policy_from_a_file(tmp_path, ending, data_format):
    path = tmp_path / f"mine.{ending}"
    A.save(A.Compose([A.Rotate(limit=(90, 90), p=1), Cutout(4)]), str(path), data_format=data_format)
    augment = Augmenter(build_policy(str(path)))
    first = augment(IMAGE, 0, 1)
    hole = (first == 0).all(-1)
    assert 4 <= hole.sum() <= 16 and np.array_equal(first[~hole], np.rot90(IMAGE)[~hole])
    assert np.array_equal(first, augment(IMAGE, 0, 1)) and not np.array_equal(first, augment(IMAGE, 0, 2))


def test_single_transform_from_a_file_and_erasing_after_it(tmp_path):
    path = tmp_path / "flip.json"
    A.save(A.HorizontalFlip(p=1), str(path), data_format="json")
    made = augment_many(build_policy(str(path)), IMAGE, 2)
    assert all(np.array_equal(image, IMAGE[:, ::-1]) for image in made)
    assert not np.array_equal(augment_many(build_policy(str(path), random_erasing=1.0), IMAGE, 1)[0], made[0])


@pytest.mark.parametrize("name", ["crop_flip_hole_or_noise", "randaugment", "mild_trivial_cutout"])
def test_named_policies_can_be_saved_as_a_start_for_ones_own(tmp_path, name):
    A.save(build_policy(name), str(tmp_path / "mine.yaml"), data_format="yaml")
    again = build_policy(str(tmp_path / "mine.yaml"))
    assert all(image.shape == (32, 32, 3) for image in augment_many(again, IMAGE, 10))


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "holds no Albumentations policy"),
        ("- 1", "holds no Albumentations policy"),
        ("{a: [", "holds no Albumentations policy"),
        ("transform: {__class_fullname__: NoSuchThing}", "NoSuchThing"),
    ],
)
def test_file_that_holds_no_policy(tmp_path, content, message):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(ValueError, match=message) as refused:
        build_policy(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(refused.value) and "mine.yaml" in str(refused.value)


@pytest.mark.parametrize("transform", [lambda: A.Normalize(), lambda: A.Resize(16, 16), lambda: A.ToTensorV2()])
def test_file_whose_images_could_not_be_batched(tmp_path, transform):
    path = str(tmp_path / "mine.json")
    A.save(A.Compose([transform()]), path, data_format="json")
    with pytest.raises(ValueError, match="must make uint8 images"):
        build_policy(path)


def test_file_whose_images_could_rarely_not_be_batched(tmp_path):
    path = str(tmp_path / "mine.json")
    rare = A.OneOf([A.RandomScale((1, 1)), A.HorizontalFlip()], p=1e-9)
    A.save(A.Compose([A.Sequential([rare]), A.Resize(16, 16, p=1e-9)]), path, data_format="json")
    with pytest.raises(ValueError, match="must make uint8 images"):
        build_policy(path)


def test_misspelt_argument_in_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    A.save(A.Compose([A.HorizontalFlip(p=1)]), str(path), data_format="yaml")
    path.write_text(path.read_text().replace("    p: 1.0\n", "    p: 1.0\n    probability: 1\n"))
    with pytest.raises(ValueError, match="probability"):
        build_policy(str(path))
