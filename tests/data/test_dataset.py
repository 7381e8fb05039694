import pickle
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel
from datasets import Image as ImageFeature
from PIL import ExifTags, Image
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor, default_data_collator
from transformers.image_utils import load_image

from hf_cifar_resnet.data.dataset import EpochSampler, ImageDataset, collate, normalize
from hf_cifar_resnet.data.images import to_rgb_array
from hf_cifar_resnet.data.policies import Augmenter, build_policy
from hf_cifar_resnet.data.splits import ImageSplits, load_splits

MEAN, STD = [0.507, 0.487, 0.441], [0.267, 0.256, 0.276]
FEATURES = {"image": ImageFeature(), "label": ClassLabel(names=["ant", "bee", "cat"])}


@pytest.fixture(params=["in memory", "memory-mapped"])
def images(request, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)
    if request.param == "in memory":
        return array
    np.save(tmp_path / "images.npy", array)
    return np.load(tmp_path / "images.npy", mmap_mode="r")


@pytest.fixture
def dataset(images):
    augmented = ImageDataset(images, np.arange(48), MEAN, STD, Augmenter(build_policy("crop_flip_jitter"), seed=5))
    return augmented.at_epoch(0)


# Batches


def test_batch_equals_its_samples(dataset):
    indices = [7, 0, 47, -1, 7]
    batch = dataset.__getitems__(indices)
    samples = [dataset[index] for index in indices]
    assert batch["pixel_values"].shape == (5, 3, 32, 32)
    assert (batch["pixel_values"].dtype, batch["labels"].dtype) == (torch.float32, torch.int64)
    assert batch["pixel_values"].equal(torch.stack([sample["pixel_values"] for sample in samples]))
    assert batch["labels"].tolist() == [sample["labels"].item() for sample in samples] == [7, 0, 47, 47, 7]


def test_pixels_are_the_normalised_image(images):
    dataset = ImageDataset(images, np.arange(48), MEAN, STD)
    expected = (images[[5, 3]] / 255 - MEAN) / STD
    batch = dataset.__getitems__([5, 3])["pixel_values"].numpy()
    np.testing.assert_allclose(batch, expected.transpose(0, 3, 1, 2), atol=1e-5)


def test_bytes_to_normalise_elsewhere(dataset):
    """The same pixels, a quarter of their size."""
    indices = [5, 3, 5]
    raw = dataset.without_normalization().__getitems__(indices)["pixel_values"]
    assert (raw.dtype, raw.shape) == (torch.uint8, (3, 32, 32, 3))
    pixels = dataset.__getitems__(indices)["pixel_values"]
    assert normalize(raw, MEAN, STD).equal(pixels)
    assert pixels.is_contiguous(memory_format=torch.channels_last)


# The image processor


@pytest.fixture(scope="module", params=["own", "saved"])
def processor(request, tmp_path_factory):
    splits = ImageSplits(None, None, None, ["ant", "bee"], None, MEAN, STD)
    if request.param == "own":
        return splits.image_processor()
    folder = tmp_path_factory.mktemp("processor")
    splits.image_processor().save_pretrained(folder)
    return AutoImageProcessor.from_pretrained(folder)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK"])
@pytest.mark.parametrize("size", [(32, 32), (17, 50)])
def test_training_pixels_equal_the_image_processor(processor, mode, size):
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    array = to_rgb_array(image)
    assert array.shape == (32, 32, 3) and array.dtype == np.uint8
    ours = normalize(array[None].copy(), MEAN, STD)
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    if size == (32, 32):
        assert ours.equal(theirs)
    else:
        grey_level = 1 / 255 / torch.tensor(STD).view(3, 1, 1)
        assert ((ours - theirs).abs() <= 1.001 * grey_level).all()


@pytest.mark.lowest
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_training_pixels_equal_the_image_processor(processor, mode):
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    if mode == "P":
        image.info["transparency"] = 0
    ours = normalize(to_rgb_array(image)[None].copy(), MEAN, STD)
    assert ours.equal(processor(image, return_tensors="pt")["pixel_values"])


def test_photo_is_turned_upright_as_in_a_pipeline(tmp_path, make_images, write_image_folder):
    images = make_images(6)
    write_image_folder({"train": {"ant": 2, "bee": 2}, "test": {"ant": 1, "bee": 1}}, iter(images).__next__)
    lying = Image.Exif()
    lying[ExifTags.Base.Orientation] = 6
    file = tmp_path / "test" / "ant" / "0.png"
    images[4].save(file, exif=lying)
    test = load_splits(str(tmp_path)).test
    assert np.array_equal(test.images[0], np.asarray(load_image(str(file))))


@pytest.mark.parametrize("image_size", [24, 64])
def test_other_image_sizes(tmp_path, make_images, write_parquet, image_size):
    for split in ("train", "test"):
        write_parquet(split, {"image": make_images(6), "label": [0, 1, 2] * 2}, FEATURES)
    splits = load_splits(str(tmp_path), image_size=image_size)
    assert splits.train[0]["pixel_values"].shape == (3, image_size, image_size)
    pixels = splits.image_processor()(make_images(6), return_tensors="pt")["pixel_values"]
    assert pixels.shape == splits.test.__getitems__(range(6))["pixel_values"].shape


# Decoding once


def test_images_are_decoded_once_and_again_when_they_change(tmp_path, make_images, write_parquet):
    def write_and_load(seed=None):
        if seed is not None:
            for split in ("train", "test"):
                write_parquet(split, {"image": make_images(6, seed), "label": [0, 1, 2] * 2}, FEATURES)
        images = load_splits(str(tmp_path), validation_fraction=0).train.images
        file = Path(images.filename)
        assert isinstance(images, np.memmap)
        return images, file, file.stat().st_ino, file.stat().st_mtime_ns

    first, *first_file = write_and_load(seed=0)
    again, *same_file = write_and_load()
    assert same_file == first_file and np.array_equal(again, first)
    changed, other_file, *_ = write_and_load(seed=1)
    assert other_file != first_file[0]
    assert np.array_equal(changed, np.stack([np.asarray(image) for image in make_images(6, seed=1)]))


def test_images_are_decoded_without_holding_all_in_memory(tmp_path, make_images, write_parquet):
    for split in ("train", "test"):
        write_parquet(split, {"image": make_images(30), "label": [0, 1, 2] * 10}, FEATURES)
    load_splits(str(tmp_path), image_size=8)  # what is loaded but once
    tracemalloc.start()
    try:
        images = load_splits(str(tmp_path), image_size=512, validation_fraction=0).train.images
        assert tracemalloc.get_traced_memory()[1] < images.nbytes / 2
    finally:
        tracemalloc.stop()
    assert np.array_equal(images[29], to_rgb_array(make_images(30)[29], 512))


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "RGBA", "LA", "I"])
@pytest.mark.parametrize("stored", ["RGB", "RGBA"])
def test_declared_mode_of_a_column(tmp_path, make_images, write_parquet, mode, stored):
    """The pixels are those that the dataset shows, on white."""
    noise = np.random.default_rng(1).integers(0, 256, (4, 32, 32, len(stored)), dtype=np.uint8)
    for split in ("train", "test"):
        columns = {"image": list(map(Image.fromarray, noise)), "label": [0, 1] * 2}
        write_parquet(split, columns, FEATURES | {"image": ImageFeature(mode=mode)})
    shown = datasets.load_dataset(str(tmp_path), split="train")["image"]
    assert shown[0].mode == mode
    images = load_splits(str(tmp_path), validation_fraction=0).train.images
    assert np.array_equal(images, np.stack([to_rgb_array(image) for image in shown]))


def test_image_columns_of_one_file_are_cached_apart(tmp_path, make_images, write_parquet):
    columns = {"one": make_images(4, 0), "other": make_images(4, 1), "label": [0, 1] * 2}
    for split in ("train", "test"):
        write_parquet(split, columns, {"one": ImageFeature(), "other": ImageFeature(), "label": FEATURES["label"]})
    for name in ("one", "other"):
        images = load_splits(str(tmp_path), image_column_name=name, validation_fraction=0).train.images
        assert np.array_equal(images, np.stack([np.asarray(image) for image in columns[name]]))


# Loading with workers


def epochs_of(dataset, epochs=2, batch_size=8, **options):
    """Per epoch, the labels in order and all pixels."""
    sampler = EpochSampler(len(dataset), seed=3)
    sampler.epoch.share_memory_()
    loader = DataLoader(dataset.at_epoch(sampler.epoch), batch_size, sampler=sampler, collate_fn=collate, **options)
    result = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        batches = list(loader)
        result.append([torch.cat([batch[name] for batch in batches]) for name in ("labels", "pixel_values")])
    return result


def assert_same(first, second):
    assert len(first) == len(second)
    for (labels, pixels), (other_labels, other_pixels) in zip(first, second, strict=True):
        assert labels.equal(other_labels) and pixels.equal(other_pixels)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 11},
        {"num_workers": 2, "batch_size": 16},
        {"num_workers": 1, "persistent_workers": True, "prefetch_factor": 4},
    ],
    ids=str,
)
def test_workers_and_batch_size_change_nothing(dataset, options):
    assert_same(epochs_of(dataset, **options), epochs_of(dataset, num_workers=0))


def test_epochs_have_another_order_and_other_pixels(dataset):
    (first, first_pixels), (second, second_pixels) = epochs_of(dataset, num_workers=2, persistent_workers=True)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(48))
    assert not first.equal(second)
    same = (first_pixels[first.argsort()] == second_pixels[second.argsort()]).flatten(1).all(1)
    assert not same.any()


# In other loops than our Trainer's


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("collate_fn", [collate, None, default_data_collator])
def test_plain_loader_augments_anew_in_every_epoch(images, collate_fn, workers):
    augmented = ImageDataset(images, np.arange(48), MEAN, STD, Augmenter(build_policy("crop_flip_jitter"), seed=5))
    loader = DataLoader(augmented, 16, collate_fn=collate_fn, num_workers=workers)

    def run():
        torch.manual_seed(0)
        return [torch.cat([batch["pixel_values"] for batch in loader]) for _ in range(2)]

    (first, second), again = run(), run()
    assert first.shape == (48, 3, 32, 32)
    assert not (first == second).flatten(1).all(1).any()
    assert first.equal(again[0]) and second.equal(again[1])  # torch's seed decides


def test_dataset_is_a_sequence_that_ends(dataset):
    assert [int(sample["labels"]) for sample in dataset] == list(range(48))


def test_collate_takes_samples_of_others():
    samples = [{"pixel_values": np.zeros((3, 4, 4), np.float32), "label": n, "image": object(), "name": "x"}
               for n in (1, 2)]  # fmt: skip
    batch = collate(samples)
    assert set(batch) == {"pixel_values", "labels"} and batch["labels"].tolist() == [1, 2]
    assert batch["pixel_values"].shape == (2, 3, 4, 4)


# Order


@pytest.mark.parametrize("epoch", [0, 30])
def test_epoch_sampler_visits_every_image_once(epoch):
    sampler = EpochSampler(20, seed=4)
    sampler.set_epoch(epoch)
    indices = list(sampler)
    assert len(sampler) == 20
    assert sorted(indices) == list(range(20))
    assert list(sampler) == indices


def test_spawned_workers_get_the_same_dataset(dataset):
    """As they get it, by pickle; without the images of a memory-mapped one."""
    data = pickle.dumps((dataset, collate))
    if isinstance(dataset.images, np.memmap):
        assert len(data) < dataset.images.nbytes / 4
    copy, _ = pickle.loads(data)
    assert_same(epochs_of(copy), epochs_of(dataset))
