"""Datasets and policies that are broken, or meant to break something."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel
from datasets import Image as ImageFeature
from PIL import Image

from hf_cifar_resnet.data.policies import build_policy
from hf_cifar_resnet.data.splits import load_splits
from hf_cifar_resnet.documents import TEMPORARY

LABELS = ClassLabel(names=["a", "b"])
FEATURES = {"image": ImageFeature(), "label": LABELS}


@pytest.fixture
def write(write_parquet, make_images, tmp_path):
    def write(seed=0, train=None, features=FEATURES, labels=(0, 1)):
        for split in ("train", "test"):
            images = make_images(8, seed=seed)
            if split == "train" and train is not None:
                images[5] = train
            write_parquet(split, {"image": images, "label": [labels[i % 2] for i in range(8)]}, features)
        return str(tmp_path)

    return write


def load(folder):
    return load_splits(folder, validation_fraction=0)


@pytest.mark.parametrize(
    "size, reason", [((50_000, 50_000), "2500000000 pixels"), ((12_000, 10_000), "12,000 x 10,000 pixels are too many")]
)
def test_bomb_in_a_dataset_is_named(write, png_that_claims, size, reason):
    folder = write(train={"bytes": png_that_claims(*size), "path": None})
    with pytest.raises(ValueError, match=f"image 5 of split train cannot be decoded: .*{reason}"):
        load(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 300.0])
def test_pixels_that_are_no_grey_levels_are_named(write, value):
    image = Image.fromarray(np.full((8, 8), value, dtype=np.float32))
    with pytest.raises(ValueError, match="image 5 of split train .* not all grey levels from 0 to 255"):
        load(write(train=image))


def test_more_classes_than_a_confusion_matrix_has_room_for(write):
    names = [str(number) for number in range(90_000)]
    with pytest.raises(ValueError, match="label has 90,000 classes, and more than 10,000 are not supported"):
        load(write(features=FEATURES | {"label": ClassLabel(names=names)}))


def test_loading_script_is_not_run(write, tmp_path):
    folder = write()
    script = tmp_path / f"{tmp_path.name}.py"
    script.write_text(f"open({str(tmp_path / 'trapped')!r}, 'w')")
    with pytest.raises(ValueError, match="scripts are no longer supported"):
        load(folder)
    assert not (tmp_path / "trapped").exists()


# A dataset under a cache


def test_changed_file_of_the_same_size_and_time_is_read_anew(write, tmp_path):
    folder = write(seed=0)
    before = load(folder)
    files = {path: path.stat() for path in Path(folder).rglob("*.parquet")}
    write(seed=1)
    for path, was in files.items():
        size = max(path.stat().st_size, was.st_size)
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
        assert abs(path.stat().st_size - size) < 100 and path.stat().st_mtime_ns == was.st_mtime_ns
    assert not np.array_equal(load(folder).train.images, before.train.images)


@pytest.fixture
def cached(write):
    """A folder whose images are decoded already, and the files that hold them."""
    import datasets

    folder = write()
    images = np.array(load(folder).train.images)
    cache = Path(datasets.config.HF_DATASETS_CACHE, "hf_cifar_resnet")
    newest = sorted(cache.glob("*.npy"), key=lambda path: path.stat().st_mtime_ns)[-2:]
    return folder, images, newest


@pytest.mark.parametrize("fault", ["truncated", "empty", "text"])
def test_damaged_file_of_the_cache_is_made_anew(cached, fault):
    folder, images, files = cached
    for path in files:
        content = path.read_bytes()
        damaged = {"truncated": content[:-100], "empty": b"", "text": b"no array" * 100}
        path.unlink()  # the first run still has it mapped
        path.write_bytes(damaged[fault])
    assert np.array_equal(load(folder).train.images, images)
    assert all(np.array_equal(np.load(path).shape[1:], (32, 32, 3)) for path in files)


def test_cache_on_a_full_disk_is_done_without(cached, limit_file_size):
    folder, images, files = cached
    for path in files:
        path.unlink()
    limit_file_size(10_000)
    assert np.array_equal(load(folder).train.images, images) and not any(path.exists() for path in files)
    assert not list(files[0].parent.glob(f"{TEMPORARY}*"))


def test_images_that_fit_neither_on_disk_nor_into_memory(
    tmp_path, write_parquet, make_images, limit_file_size, limit_memory
):
    for split in ("train", "test"):
        write_parquet(split, {"image": make_images(60), "label": [0, 1] * 30}, FEATURES)
    folder = str(tmp_path)
    load(folder)
    limit_file_size(10_000)
    limit_memory(50_000_000)
    message = r"images of split \w+ need 0.19 GB at 1024 x 1024 pixels, .* nor into the cache \(.*: File too large\)"
    with pytest.raises(ValueError, match=message):
        load_splits(folder, validation_fraction=0, image_size=1024)


# Policies


@pytest.mark.parametrize("ending", ["json", "yaml"])
@pytest.mark.parametrize(
    "policy",
    [
        {"__class_fullname__": "os.system", "p": 1, "command": "touch trapped"},
        {"__class_fullname__": "subprocess.Popen", "p": 1, "args": ["touch", "trapped"]},
        {"__class_fullname__": "Compose", "p": 1, "transforms": [{"__class_fullname__": "os.system", "p": 1}]},
        {"__class_fullname__": "Lambda", "__name__": "os.system", "p": 1},
    ],
)
def test_policy_makes_transforms_alone(tmp_path, monkeypatch, policy, ending):
    monkeypatch.chdir(tmp_path)
    path = Path(f"policy.{ending}")
    path.write_text(json.dumps({"transform": policy}))
    with pytest.raises(ValueError, match=f"{path} holds no Albumentations policy") as refused:
        build_policy(str(path))
    assert "\n" not in str(refused.value) and os.listdir() == [str(path)]


def test_policy_of_absurd_sizes(tmp_path):
    resize = {"__class_fullname__": "Resize", "p": 1, "height": 10**9, "width": 10**9}
    (tmp_path / "policy.json").write_text(json.dumps({"transform": resize}))
    with pytest.raises(ValueError, match="policy.json holds no Albumentations policy that fits"):
        build_policy(str(tmp_path / "policy.json"))
