import io

import numpy as np
import pytest
from datasets import ClassLabel, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from hf_cifar_resnet.data.dataset import channel_statistics
from hf_cifar_resnet.data.splits import load_splits, stratified_sample

NAMES = ["ant", "bee", "cat", "dog", "eel"]
GROUPS = ["insect", "other"]
GROUP_OF = [0, 0, 1, 1, 1]
TRAIN_COUNTS = [9, 10, 11, 20, 30]
CIFAR_FEATURES = {
    "img": ImageFeature(),
    "fine_label": ClassLabel(names=NAMES),
    "coarse_label": ClassLabel(names=GROUPS),
}
PLAIN_FEATURES = {"image": ImageFeature(), "label": ClassLabel(names=NAMES)}


def pixels(dataset):
    return [image.tobytes() for image in dataset.images]


def counts(dataset):
    return np.bincount(dataset.labels.numpy(), minlength=len(NAMES))


def cifar_columns(labels, images):
    return {"img": images, "fine_label": labels, "coarse_label": [GROUP_OF[label] for label in labels]}


@pytest.fixture
def train_labels():
    return np.random.default_rng(7).permutation(np.repeat(np.arange(5), TRAIN_COUNTS)).tolist()


@pytest.fixture
def cifar_like(tmp_path, make_images, write_parquet, train_labels):
    """80 unevenly distributed training and 25 test images with CIFAR-100's columns."""
    write_parquet("train", cifar_columns(train_labels, make_images(80, seed=0)), CIFAR_FEATURES)
    write_parquet("test", cifar_columns([0, 1, 2, 3, 4] * 5, make_images(25, seed=1)), CIFAR_FEATURES)
    return str(tmp_path)


@pytest.fixture
def with_column(tmp_path, make_images, write_parquet):
    """A dataset with the columns image and `name`: the given values for training, the first four for testing."""

    def write(values, feature, name="label"):
        for split, part in {"train": values, "test": values[:4]}.items():
            columns = {"image": make_images(len(part)), name: part}
            write_parquet(split, columns, {"image": ImageFeature(), name: feature})
        return str(tmp_path)

    return write


# What is read


def test_parquet_folder_with_cifar_columns(cifar_like, make_images, train_labels):
    splits = load_splits(cifar_like, validation_fraction=0)
    assert splits.label_names == NAMES
    assert splits.id2label == dict(enumerate(NAMES)) and splits.label2id["eel"] == 4
    assert splits.superclass_of.tolist() == GROUP_OF
    assert splits.train.labels.tolist() == train_labels
    assert pixels(splits.train) == [image.tobytes() for image in make_images(80, seed=0)]
    assert splits.test.labels.tolist() == [0, 1, 2, 3, 4] * 5
    assert pixels(splits.test) == [image.tobytes() for image in make_images(25, seed=1)]


def test_columns_of_any_name(tmp_path, make_images, write_parquet):
    for split in ("train", "test"):
        columns = {"photo": make_images(4), "species": [0, 1, 2, 3], "label": [0, 0, 0, 0]}
        features = {"photo": ImageFeature(), "species": ClassLabel(names=NAMES), "label": Value("int64")}
        write_parquet(split, columns, features)
    splits = load_splits(str(tmp_path), image_column_name="photo", label_column_name="species", validation_fraction=0)
    assert splits.label_names == NAMES and splits.train.labels.tolist() == [0, 1, 2, 3]


def test_image_folder(tmp_path, write_image_folder, make_images):
    images = make_images(14)
    write_image_folder({"train": {"dog": 6, "cat": 4}, "test": {"dog": 1, "cat": 3}}, iter(images).__next__)
    splits = load_splits(str(tmp_path), validation_fraction=0)
    assert splits.label_names == ["cat", "dog"]
    dogs = splits.train.images[splits.train.labels.numpy() == 1]
    assert sorted(map(bytes, dogs)) == sorted(image.tobytes() for image in images[:6])
    assert np.bincount(splits.train.labels).tolist() == [4, 6]
    assert np.bincount(splits.test.labels).tolist() == [3, 1]


@pytest.mark.parametrize("dtype", ["string", "large_string"])
def test_string_labels(with_column, dtype):
    splits = load_splits(with_column(["dog", "cat", "ant"] * 4, Value(dtype)), validation_fraction=0)
    assert splits.label_names == ["ant", "cat", "dog"]
    assert splits.train.labels.tolist() == [2, 1, 0] * 4
    assert splits.test.labels.tolist() == [2, 1, 0, 2]


def test_integer_labels_without_names(with_column):
    splits = load_splits(with_column([3, 0, 1, 3] * 3, Value("int32"), name="labels"), validation_fraction=0)
    assert splits.label_names == ["0", "1", "3"]
    assert splits.train.labels.tolist() == [2, 0, 1, 2] * 3


def test_no_superclass_where_a_label_has_two(tmp_path, make_images, write_parquet):
    for split in ("train", "test"):
        columns = cifar_columns([0, 1, 2, 3, 4] * 2, make_images(10))
        columns["coarse_label"][5] = 1
        write_parquet(split, columns, CIFAR_FEATURES)
    assert load_splits(str(tmp_path)).superclass_of is None


def test_cifar100_sample(shared_dataset):
    splits = load_splits(shared_dataset("cifar100-sample"))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [1005, 112, 716]
    assert len(splits.label_names) == 100 and splits.label_names[0] == "apple"
    assert np.bincount(splits.superclass_of).tolist() == [5] * 20
    assert (splits.train.images.shape, splits.train.images.dtype) == ((1005, 32, 32, 3), np.uint8)


def test_slice_of_cifar10(shared_dataset):
    splits = load_splits(shared_dataset("cifar10-jpeg"), max_train_samples=50, max_eval_samples=20)
    assert splits.label_names[:2] == ["airplane", "automobile"] and splits.superclass_of is None
    for part, each in ((splits.train, 5), (splits.validation, 2), (splits.test, 2)):
        assert np.bincount(part.labels).tolist() == [each] * 10


# Validation


def test_own_validation_split_is_kept(cifar_like, make_images, write_parquet):
    write_parquet("validation", cifar_columns([4, 3, 2], make_images(3, seed=2)), CIFAR_FEATURES)
    splits = load_splits(cifar_like)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [80, 3, 25]
    assert splits.validation.labels.tolist() == [4, 3, 2]
    assert pixels(splits.validation) == [image.tobytes() for image in make_images(3, seed=2)]


def test_lone_validation_split_becomes_the_test_split(tmp_path, make_images, write_parquet):
    write_parquet("train", {"image": make_images(20), "label": [0, 1, 2, 3] * 5}, PLAIN_FEATURES)
    write_parquet("validation", {"image": make_images(6, seed=1), "label": [0] * 6}, PLAIN_FEATURES)
    splits = load_splits(str(tmp_path), validation_fraction=0.2)
    assert pixels(splits.test) == [image.tobytes() for image in make_images(6, seed=1)]
    assert len(splits.validation) == 4 and set(pixels(splits.validation)) <= {
        image.tobytes() for image in make_images(20)
    }


@pytest.mark.parametrize("fraction", [0.05, 0.25])
def test_held_out_validation_is_stratified_and_disjoint(cifar_like, make_images, fraction):
    splits = load_splits(cifar_like, validation_fraction=fraction)
    assert len(splits.validation) == round(80 * fraction)
    assert (np.abs(counts(splits.validation) - fraction * np.array(TRAIN_COUNTS)) < 1).all()
    together = pixels(splits.train) + pixels(splits.validation)
    assert sorted(together) == sorted(image.tobytes() for image in make_images(80, seed=0))


def test_validation_depends_on_the_split_seed_alone(cifar_like):
    reference = pixels(load_splits(cifar_like, split_seed=0, seed=1).validation)
    assert pixels(load_splits(cifar_like, split_seed=0, seed=2).validation) == reference
    assert pixels(load_splits(cifar_like, split_seed=0, max_train_samples=10).validation) == reference
    assert pixels(load_splits(cifar_like, split_seed=1, seed=1).validation) != reference


# Slices


def test_slices_are_stratified_and_seeded(cifar_like):
    def load(split_seed, seed):
        return load_splits(
            cifar_like,
            validation_fraction=0.5,
            max_train_samples=20,
            max_eval_samples=8,
            split_seed=split_seed,
            seed=seed,
        )

    splits = load(split_seed=0, seed=1)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [20, 8, 8]
    whole = load_splits(cifar_like, validation_fraction=0.5)
    for name in ("train", "validation", "test"):
        part, full = getattr(splits, name), getattr(whole, name)
        assert (np.abs(counts(part) - counts(full) * len(part) / len(full)) < 1).all()
        assert set(pixels(part)) < set(pixels(full))
        assert pixels(getattr(load(split_seed=0, seed=2), name)) == pixels(part)
        assert pixels(getattr(load(split_seed=1, seed=1), name)) != pixels(part)


SAMPLE_LABELS = np.random.default_rng(3).permutation(np.repeat(np.arange(12), np.arange(1, 13)))


@pytest.mark.parametrize("size", [0, 1, 11, 12, 39, 77, 78])
def test_stratified_sample(size):
    sample = stratified_sample(SAMPLE_LABELS, size, 0)
    assert len(sample) == size == len(set(sample.tolist()))
    assert size in (0, 78) or not np.array_equal(sample, stratified_sample(SAMPLE_LABELS, size, 1))
    shares = np.arange(1, 13) * size / 78
    assert (np.abs(np.bincount(SAMPLE_LABELS[sample], minlength=12) - shares) < 1).all()
    assert np.array_equal(sample, stratified_sample(SAMPLE_LABELS, size, 0))


def test_stratified_sample_smaller_than_the_classes_favours_none():
    labels = np.repeat(np.arange(10), 3)
    chosen = {label for seed in range(60) for label in labels[stratified_sample(labels, 2, seed)]}
    assert chosen == set(range(10))


# Normalisation and augmentation


def test_statistics_come_from_the_training_images_alone(tmp_path, make_images, write_parquet):
    black = [Image.new("RGB", (32, 32))] * 8
    write_parquet("train", {"image": make_images(12) + black, "label": [0] * 12 + [1] * 8}, PLAIN_FEATURES)
    write_parquet("test", {"image": black, "label": [0, 1] * 4}, PLAIN_FEATURES)
    splits = load_splits(str(tmp_path), validation_fraction=0.25)
    scaled = np.asarray(splits.train.images).reshape(-1, 3) / 255
    np.testing.assert_allclose(splits.mean, scaled.mean(0), rtol=1e-9)
    np.testing.assert_allclose(splits.std, scaled.std(0), rtol=1e-9)
    assert splits.test.mean == splits.validation.mean == splits.mean


@pytest.mark.parametrize("count", [1, 1000, 2300])
def test_channel_statistics_equal_numpy(count):
    images = np.random.default_rng(count).integers(0, 200, (count, 8, 8, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255, rtol=1e-9)
    np.testing.assert_allclose(std, images.std((0, 1, 2)) / 255, rtol=1e-9)


def test_seed_and_epoch_change_the_augmentation_of_training_images_alone(cifar_like):
    first, second = load_splits(cifar_like, seed=1), load_splits(cifar_like, seed=2)

    def pixels_of(part, epoch):
        return part.at_epoch(epoch)[0]["pixel_values"]

    assert not pixels_of(first.train, 0).equal(pixels_of(second.train, 0))
    assert not pixels_of(first.train, 0).equal(pixels_of(first.train, 1))
    for name in ("validation", "test"):
        assert pixels_of(getattr(first, name), 0).equal(pixels_of(getattr(second, name), 1))


# What is wrong


@pytest.mark.parametrize(
    "options, message",
    [
        ({"image_column_name": "photo"}, "image_column_name photo.*has: img, fine_label, coarse_label"),
        ({"label_column_name": "species"}, "label_column_name species.*has: img, fine_label, coarse_label"),
        ({"image_column_name": "fine_label"}, "fine_label holds no images.*image_column_name"),
        ({"label_column_name": "img"}, "img holds no class labels.*label_column_name"),
        ({"validation_fraction": -0.1}, "validation_fraction must be at least 0 and below 1, got -0.1"),
        ({"validation_fraction": 0.999}, "validation_fraction 0.999 leaves no training images of 80"),
        ({"max_train_samples": 0}, "max_train_samples must be at least 1, got 0"),
        ({"max_eval_samples": -3}, "max_eval_samples must be at least 1, got -3"),
        ({"augmentation": "stronk"}, "augmentation stronk is no policy: choose one of crop_flip_jitter, .*, none"),
        ({"augmentation": "no/mine.json"}, "there is no augmentation policy file no/mine.json"),
        ({"image_mean": [0.1, 0.2, 0.3]}, "image_mean is given alone: give both image_mean and image_std"),
        ({"image_mean": [125, 123, 113], "image_std": [0.2] * 3}, "image_mean is on the scale 0 to 1, got .125, 123"),
        ({"image_mean": [0.5] * 3, "image_std": [0.2, 0.2, 62.9]}, "image_std is on the scale 0 to 1, got .0.2, 0.2"),
        ({"image_mean": [0.5, 0.5, -0.1], "image_std": [0.2] * 3}, "image_mean is on the scale 0 to 1"),
        ({"random_erasing": 2}, "random_erasing must be a probability"),
        ({"color_jitter": (0.2, -0.2, 0.2, 0.0)}, "0 to 1"),
    ],
)
def test_wrong_option(cifar_like, options, message):
    with pytest.raises(ValueError, match=message):
        load_splits(cifar_like, **options)


def test_missing_or_empty_folder(tmp_path):
    for name in ("./no-such-folder", "no/such/folder"):
        with pytest.raises(ValueError, match=f"{name}: there is no such folder; .*dataset_name shapes100"):
            load_splits(name)
    with pytest.raises(ValueError, match=f"{tmp_path} cannot be read: .*doesn't contain any data"):
        load_splits(str(tmp_path))


def test_garbage_parquet(cifar_like, tmp_path):
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(b"not parquet" * 100)
    with pytest.raises(ValueError, match=f"{tmp_path} cannot be read: .*not a parquet file"):
        load_splits(cifar_like)


@pytest.mark.parametrize("missing, present", [("train", "test"), ("test", "train")])
def test_missing_split(cifar_like, tmp_path, missing, present):
    (tmp_path / "data" / f"{missing}-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match=rf"needs the splits train and test \(or validation\), but has {present}"):
        load_splits(cifar_like)


@pytest.mark.parametrize("split", ["train", "test"])
def test_dataset_has_what_is_needed_alone(cifar_like, tmp_path, split):
    whole = load_splits(cifar_like, validation_fraction=0)
    other = {"train": "test", "test": "train"}[split]
    (tmp_path / "data" / f"{other}-00000-of-00001.parquet").unlink()
    statistics = {"image_mean": whole.mean, "image_std": whole.std}
    data = load_splits(cifar_like, validation_fraction=0, needed={split}, augmentation="none", **statistics)
    assert np.array_equal(getattr(data, split).images, getattr(whole, split).images)
    assert getattr(data, other) is None and data.label_names == whole.label_names


@pytest.mark.parametrize("split", ["train", "test"])
def test_empty_split(cifar_like, write_parquet, split):
    write_parquet(split, cifar_columns([], []), CIFAR_FEATURES)
    with pytest.raises(ValueError, match=f"{split}.*(no data|empty)"):
        load_splits(cifar_like)


@pytest.mark.parametrize("split, fault", [("train", "truncated"), ("test", "garbage"), ("test", "missing")])
def test_corrupt_image_is_named_by_its_index(tmp_path, make_images, write_parquet, split, fault):
    stream = io.BytesIO()
    make_images(1)[0].save(stream, "PNG")
    wrong = {
        "truncated": {"bytes": stream.getvalue()[:1000], "path": None},
        "garbage": {"bytes": b"not an image", "path": None},
        "missing": None,
    }
    for name in ("train", "test"):
        images = make_images(12)
        if name == split:
            images[11] = wrong[fault]
        write_parquet(name, {"image": images, "label": [0, 1, 2, 3] * 3}, PLAIN_FEATURES)
    with pytest.raises(ValueError, match=f"image 11 of split {split} cannot be decoded: .* Remove or replace it"):
        load_splits(str(tmp_path), validation_fraction=0.25 if split == "test" else 0)


def test_corrupt_file_is_named_and_can_be_replaced(tmp_path, write_image_folder, make_images):
    images = make_images(12)
    write_image_folder({"train": {"cat": 4, "dog": 4}, "test": {"cat": 2, "dog": 2}}, iter(images).__next__)
    file = tmp_path / "train" / "dog" / "2.png"
    file.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=str(file)):
        load_splits(str(tmp_path))
    images[6].save(file)
    assert len(load_splits(str(tmp_path), validation_fraction=0).train) == 8


@pytest.mark.parametrize(
    "values, feature, message",
    [
        ([0, 1, -1, 3], ClassLabel(names=NAMES), "image 2 of split train has the label -1, outside 0 to 4"),
        ([0, 1, None, 3], ClassLabel(names=NAMES), "image 2 of split train has the label None, outside 0 to 4"),
        ([0.0, 1.0, 2.0, 3.0], Value("float32"), "label holds no class labels.*label_column_name"),
        (["a", None, "b", "c"], Value("string"), "label is empty for some images"),
        ([[0], [1], [2], [3]], List(Value("int64")), "label holds no class labels.*label_column_name"),
    ],
)
def test_wrong_labels(with_column, values, feature, message):
    with pytest.raises(ValueError, match=message):
        load_splits(with_column(values, feature))


def test_label_out_of_range(tmp_path, make_images):
    from datasets import Dataset, Features

    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        dataset = Dataset.from_dict(
            {"image": make_images(4), "label": [0, 1, 5, 2]},
            features=Features({"image": ImageFeature(), "label": Value("int64")}),
        )
        # Only a file can say this: `datasets` refuses to cast 5 to five names.
        dataset.info.features = Features(PLAIN_FEATURES)
        dataset.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="image 2 of split train has the label 5, outside 0 to 4"):
        load_splits(str(tmp_path))


@pytest.mark.parametrize("column", ["label", "name"])
def test_no_image_column(tmp_path, write_parquet, column):
    for split in ("train", "test"):
        write_parquet(split, {column: [0, 1]}, {column: Value("int64")})
    with pytest.raises(ValueError, match=f"found no image column among: {column}; name it with image_column_name"):
        load_splits(str(tmp_path))


def test_split_without_the_label_column(cifar_like, make_images, write_parquet):
    write_parquet("validation", {"img": make_images(2)}, {"img": ImageFeature()})
    with pytest.raises(ValueError, match="split validation.*label"):
        load_splits(cifar_like)


def test_hub_out_of_reach(monkeypatch):
    for settled in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{settled}.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="^the dataset uoft-cs/cifar100 cannot be loaded from the Hub") as refused:
        load_splits("uoft-cs/cifar100")
    assert "local folder" in str(refused.value) and "dataset_name shapes100" in str(refused.value)
