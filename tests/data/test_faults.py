"""Where a dataset cannot be loaded, one line blames what is wrong and says what to do."""

import io
import os
import zipfile

import pytest
from datasets import Image, Value

from hf_cifar_resnet.data.splits import load_splits

SPLITS = ("train", "test")


def encode(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def images(make_images):
    return make_images(4)


@pytest.fixture
def parquet(write_parquet, images):
    for split in SPLITS:
        write_parquet(split, {"image": images, "label": [0, 1, 0, 1]}, {"image": Image(), "label": Value("int64")})


def reason(folder, **options):
    with pytest.raises(ValueError) as raised:
        load_splits(str(folder), **options)
    return str(raised.value)


@pytest.mark.parametrize("kind", ["binary", "large_binary"])
def test_bytes_that_are_not_declared_as_images(tmp_path, write_parquet, images, kind):
    for split in SPLITS:
        columns = {"image": list(map(encode, images)), "label": [0, 1, 0, 1]}
        write_parquet(split, columns, {"image": Value(kind), "label": Value("int64")})
    assert reason(tmp_path).endswith("if its bytes are image files, write it with the feature datasets.Image()")


@pytest.mark.parametrize("place", ["{split}/{name}.zip", "{split}.zip"])
def test_archives(tmp_path, images, place):
    for split in SPLITS:
        for name in ("cat", "dog"):
            path = tmp_path / place.format(split=split, name=name)
            path.parent.mkdir(exist_ok=True)
            with zipfile.ZipFile(path, "a") as archive:
                for number, image in enumerate(images):
                    archive.writestr(f"{name}/{number}.png", encode(image))
    assert "; unpack its archives: test" in reason(tmp_path)


@pytest.mark.parametrize("given", [None, "c"])
def test_several_configurations(tmp_path, parquet, given):
    files = "".join(
        f"- config_name: {name}\n  data_files:\n" +
        "".join(f"  - split: {split}\n    path: data/{split}-*\n" for split in SPLITS)
        for name in ("a", "b")
    )  # fmt: skip
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{files}---\n")
    expected = f"{tmp_path} has several configurations: choose one with dataset_config_name, of a, b"
    assert reason(tmp_path, dataset_config_name=given) == expected
    assert load_splits(str(tmp_path), dataset_config_name="b").train is not None


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.write_text("")])
def test_file_or_pipe_instead_of_a_folder(tmp_path, make):
    make(tmp_path / "data")
    assert f"{tmp_path / 'data'} is not a folder" in reason(tmp_path / "data")


def test_cache_that_cannot_be_made(tmp_path, parquet, monkeypatch):
    """As below a home folder that is none."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", "/dev/null/cache")
    expected = "the cache cannot be written: /dev/null: Not a directory; make room, or set HF_HOME to another folder"
    assert reason(tmp_path).replace("/dev/null/cache", "/dev/null") == expected


@pytest.mark.parametrize("options", ["size=32k", "ro"])
def test_cache_that_is_full_or_read_only(tmp_path, make_images, write_parquet, monkeypatch, mount, options):
    for split in SPLITS:
        write_parquet(
            split, {"image": make_images(40), "label": [0, 1] * 20}, {"image": Image(), "label": Value("int64")}
        )
    disk = mount(options)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(disk / "cache"))
    line = reason(tmp_path)
    assert line.startswith("the cache cannot be written: ") and line.endswith("set HF_HOME to another folder")
