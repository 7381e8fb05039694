"""Folders from which images, classes or splits would be read that were not meant, or not all that were."""

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image, features

from hf_cifar_resnet.data.splits import load_splits

NAMED = {"image": ImageFeature(), "label": ClassLabel(names=["ant", "bee"])}
TWO = {"cat": 3, "dog": 3}


@pytest.fixture
def noise():
    """Makes images that all differ."""
    rng = np.random.default_rng(0)
    return lambda: Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))


@pytest.fixture
def write(tmp_path, noise):
    """Writes images of noise as `data/split/class/number.png` and returns the folder `data`."""

    def write(splits, ending="png"):
        for split, classes in splits.items():
            for name, count in classes.items():
                folder = tmp_path / "data" / split / name
                folder.mkdir(parents=True, exist_ok=True)
                for number in range(count):
                    noise().save(folder / f"{number}.{ending}")
        return tmp_path / "data"

    return write


@pytest.fixture
def table(noise):
    """Makes a dataset with the columns image and label, of 8 x 8 images."""

    def make(labels, label=NAMED["label"]):
        columns = {"image": [noise() for _ in labels], "label": labels}
        return Dataset.from_dict(columns, features=Features({"image": ImageFeature(), "label": label}))

    return make


@pytest.fixture
def write_tables(tmp_path):
    """Writes datasets as the parquet files of `data/data` and returns the folder `data`."""

    def write(**tables):
        (tmp_path / "data" / "data").mkdir(parents=True)
        for name, content in tables.items():
            content.to_parquet(tmp_path / "data" / "data" / f"{name.replace('_', '-')}.parquet")
        return tmp_path / "data"

    return write


def load(folder, **options):
    return load_splits(str(folder), image_size=8, **{"validation_fraction": 0} | options)


def classes(data, split):
    """How many images of each class a split has."""
    part = getattr(data, split)
    counts = np.bincount(part.labels, minlength=len(data.label_names)).tolist()
    return {name: count for name, count in zip(data.label_names, counts, strict=True) if count}


def classes_on_disk(folder, split):
    return {path.name: len(list(path.iterdir())) for path in sorted((folder / split).iterdir())}


def card(**patterns):
    """A README that says which files belong to which split."""
    splits = "".join(f'  - split: {split}\n    path: "{pattern}"\n' for split, pattern in patterns.items())
    return f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n"


# Splits


@pytest.mark.parametrize("name", ["train", "training", "valid", "dev", "val", "test", "eval", "steam train", "test-1"])
@pytest.mark.parametrize(
    "train, test", [("train", "test"), ("Train", "TEST"), ("my data/cifar-train", "my data/cifar test")]
)
def test_class_named_like_a_split_stays_in_its_split(write, name, train, test):
    folder = write({train: {name: 6, "other": 5}, test: {name: 4, "other": 3}})
    data = load(folder)
    assert data.validation is None
    for part, split in (("train", train), ("test", test)):
        assert classes(data, part) == classes_on_disk(folder, split)
        written = sorted(np.asarray(Image.open(path)).tobytes() for path in (folder / split).rglob("*.png"))
        assert sorted(image.tobytes() for image in getattr(data, part).images) == written


def test_name_of_a_split_in_the_name_of_a_folder_above_both(write):
    data = load(write({"old test set/train": TWO, "old test set/test": {"cat": 1, "dog": 2}}))
    assert classes(data, "train") == TWO and classes(data, "test") == {"cat": 1, "dog": 2}


@pytest.mark.parametrize("second", ["training", "train-old"])
def test_two_folders_of_one_split(write, second):
    folder = write({"train": TWO, "test": TWO, second: TWO})
    if second == "training":
        with pytest.raises(ValueError, match="folders train, training could each be the split train"):
            load(folder)
    else:  # the one with that very name
        assert classes(load(folder), "train") == TWO


def test_readme_that_gives_a_class_to_two_splits_is_refused(write):
    folder = write({"train": {"train": 4, "other": 4}, "test": {"train": 2, "other": 2}})
    (folder / "README.md").write_text(card(train="**/train/**", test="**/test/**"))
    with pytest.raises(ValueError, match="test/train/0.png is in the splits train and test"):
        load(folder)


@pytest.mark.parametrize(
    "link, target, reason",
    [
        ("test/cat", "train/cat", "train/cat/0.png is in the splits train and test, also as test/cat/0.png"),
        ("test/cat/9.png", "train/cat/1.png", "train/cat/1.png is in the splits train and test"),
        ("train/lynx", "train/cat", "train/cat/0.png is twice in train"),
        ("train/dog/9.png", "train/dog/0.png", "train/dog/0.png is twice in train"),
        ("validation", "test", "test/cat/0.png|validation/cat/0.png is in the splits"),
    ],
)
def test_file_in_two_splits_or_twice_in_one_is_refused(write, link, target, reason):
    folder = write({"train": TWO, "test": {"dog": 3} if link == "test/cat" else TWO})
    (folder / link).symlink_to(folder / target)
    with pytest.raises(ValueError, match=reason):
        load(folder)


def test_equal_images_in_files_of_their_own_are_fine(write):
    folder = write({"train": TWO, "test": TWO})
    shutil.copy(folder / "train/cat/0.png", folder / "test/cat/0.png")
    store = folder.parent / "blobs" / ("0123456789abcdef" * 4)  # as the cache of the Hub keeps equal files
    store.parent.mkdir()
    shutil.copy(folder / "train/cat/0.png", store)
    for split in ("train", "test"):
        (folder / split / "cat" / "9.png").symlink_to(store)
    assert classes(load(folder), "train") == classes(load(folder), "test") == {"cat": 4, "dog": 3}


@pytest.mark.parametrize("linked", [True, False])
def test_table_that_is_two_splits_is_refused(write_tables, table, linked):
    folder = write_tables(train=table([0, 1]))
    if linked:
        (folder / "data" / "test.parquet").symlink_to(folder / "data" / "train.parquet")
    else:
        (folder / "README.md").write_text(card(train="data/train.parquet", test="data/*.parquet"))
    with pytest.raises(ValueError, match="data/train.parquet is in the splits train and test"):
        load(folder)


@pytest.mark.parametrize(
    "copy, reason",
    [
        ("train (1)", r"train \(1\).parquet and .*train.parquet of the split train are equal: remove one"),
        ("train_old", "train.parquet and .*train_old.parquet of the split train are equal"),
        ("train-00000-of-00001", "the split train has the files of two versions"),
    ],
)
def test_copy_of_a_table_is_not_read_twice(write_tables, table, copy, reason):
    folder = write_tables(train=table([0, 1, 1]), test=table([0, 1]))
    for path in (folder / "data").iterdir():
        shutil.move(path, folder / path.name)
    shutil.copy(folder / "train.parquet", folder / f"{copy}.parquet")
    with pytest.raises(ValueError, match=reason):
        load(folder)


@pytest.mark.parametrize("copy", ["train-00000-of-00001 (1)", "train-00000-of-00001-0123456789abcdef"])
def test_second_copy_of_a_shard_is_refused(write_tables, table, copy):
    folder = write_tables(**{f"{split}_00000_of_00001": table([0, 1]) for split in ("train", "test")})
    shutil.copy(folder / "data" / "train-00000-of-00001.parquet", folder / "data" / f"{copy}.parquet")
    with pytest.raises(ValueError, match="the split train has the files of two versions"):
        load(folder)


# Images


def test_every_image_is_read(write, noise, caplog):
    folder = write({"train": TWO, "test": TWO})
    elsewhere = folder.parent / "elsewhere"
    shutil.move(folder / "train" / "dog", elsewhere)
    (folder / "train" / "dog").symlink_to(elsewhere)
    (folder / "train" / "here").symlink_to(folder)  # a loop, which leads to no image of its own
    write({"train": {"__background__": 2, "what? [x] *::": 2}}, ending="JPG")
    noise().save(folder / "train" / "cat" / "a [1]*.png")
    if features.check("avif"):
        noise().save(folder / "train" / "cat" / "1.avif")
    (folder / "train" / "here").unlink()
    assert classes(load(folder), "train") == classes_on_disk(folder, "train")
    assert "not read" not in caplog.text


def test_link_to_a_folder_above_is_not_followed_for_ever(write):
    folder = write({"train": TWO, "test": TWO})
    (folder / "loop").symlink_to(folder)
    assert classes(load(folder), "train") == TWO


def test_what_systems_leave_behind_is_no_image(write, caplog):
    folder = write({"train": TWO, "test": TWO, "__MACOSX/train": {"cat": 1}, "train/.ipynb_checkpoints": {"cat": 1}})
    for name in (".DS_Store", "._0.png", "Thumbs.db", "thumbs.db", "Desktop.ini"):
        (folder / "train" / "cat" / name).write_bytes(b"x")
    assert classes(load(folder), "train") == TWO and "not read" not in caplog.text


@pytest.mark.parametrize(
    "place",
    [
        *("train/cat/0001", "train/cat/1.heic", "test/dog/1.png.part", "train/eel/", "fox/1.png"),
        *("train/cat.zip", "test/dog/dog.tar", "train.parquet", "data.zip"),
    ],
)
def test_what_is_left_out_is_named_in_one_line(write, caplog, place):
    folder = write({"train": TWO, "test": TWO})
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / place).mkdir() if place.endswith("/") else (folder / place).write_bytes(b"x")
    assert classes(load(folder), "train") == TWO
    [line] = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert line == f"in {folder} are not read as images: {place}"


@pytest.mark.parametrize(
    "place", ["train/cat/session1/1.png", "test/dog/session1/deeper/1.png", "train/loose.png", "test/1.png"]
)
def test_image_of_no_certain_class_is_refused(write, noise, place):
    folder = write({"train": TWO, "test": TWO})
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    noise().save(folder / place)
    with pytest.raises(ValueError, match=f"split/class/image.*move or remove.* {place}$"):
        load(folder)


@pytest.mark.parametrize("repeated", ["train", "seg_train"])
def test_folder_of_a_split_within_itself(write, repeated):
    data = load(write({f"{repeated}/{repeated}": TWO, "test": {"cat": 1, "dog": 2}}))
    assert classes(data, "train") == TWO and classes(data, "test") == {"cat": 1, "dog": 2}


@pytest.mark.parametrize("place", [b"train/caf\xe9/1.png", b"test/dog/caf\xe9.png"])
def test_name_that_is_not_utf8(write, noise, place):
    folder = write({"train": TWO, "test": TWO})
    path = os.path.join(os.fsencode(folder), place)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    noise().save(os.fsdecode(path))
    with pytest.raises(ValueError, match="the names of .*caf.* are not UTF-8, as old archives leave them: rename them"):
        load(folder)


def test_readme_that_cannot_be_parsed(write):
    folder = write({"train": TWO, "test": TWO})
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(ValueError, match="at the top of .*README.md are not valid YAML"):
        load(folder)


def test_many_that_are_left_out_are_counted(write, caplog):
    folder = write({"train": TWO, "test": TWO})
    for number in range(9):
        (folder / "train" / "cat" / f"{number}.heic").touch()
    load(folder)
    assert "train/cat/0.heic, train/cat/1.heic, train/cat/2.heic and 6 more" in caplog.text


def test_image_folder_is_decoded_once_and_changes_are_seen(write, noise):
    folder = write({"train": TWO, "test": TWO})
    before = load(folder).train.images
    assert isinstance(before, np.memmap) and load(folder).train.images.filename == before.filename
    noise().save(folder / "train/cat/0.png")
    after = load(folder).train.images
    assert [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [True] + 5 * [False]


@pytest.fixture
def with_metadata(write):
    def make(train=(0, 1, 2)):
        folder = write({"train/images": {"of train": 3}, "test/images": {"of test": 3}})
        for split, numbers in (("train", train), ("test", (0, 1, 2))):
            rows = [f"images/of {split}/{i}.png,{'cat' if i else 'dog'}" for i in numbers]
            (folder / split / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
        return folder

    return make


def test_labels_of_a_metadata_file(with_metadata, caplog):
    folder = with_metadata()
    assert classes(load(folder), "train") == classes(load(folder), "test") == {"cat": 2, "dog": 1}
    assert not caplog.records


def test_image_that_a_metadata_file_lacks_is_named(with_metadata, caplog):
    folder = with_metadata([0, 1])
    assert classes(load(folder), "train") == {"cat": 1, "dog": 1}
    assert f"in {folder} are not read as images: train/images/of train/2.png" in caplog.text


def test_image_that_a_metadata_file_has_twice_is_refused(with_metadata):
    with pytest.raises(ValueError, match="images/of train/1.png is twice in train"):
        load(with_metadata([0, 1, 1, 2]))


@pytest.mark.parametrize("place", [".", "train"])
def test_metadata_file_that_is_not_in_every_split(write, place):
    folder = write({"train": {"." if place == "." else "cat": 3}, "test": TWO})
    (folder / place / "metadata.csv").write_text("file_name,label\n0.png,cat\n")
    with pytest.raises(ValueError, match="metadata.csv in the folder of each split|split test has no such file"):
        load(folder)


@pytest.mark.parametrize("written", [("007", "7"), ("+7", "7"), ("1", "01")])
@pytest.mark.parametrize("where", ["train", "other split"])
def test_numbers_written_in_two_ways_in_a_metadata_file_are_not_one_class(write, written, where):
    folder = write({"train": {"images": 4}, "test": {"images": 4}})
    for split in ("train", "test"):
        first, second = {"train": (written[0], written[where == "train"]), "test": (written[1], written[1])}[split]
        labels = [first, second, "9", "9"]
        rows = [f"images/{number}.png,{label}" for number, label in enumerate(labels)]
        (folder / split / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    with pytest.raises(ValueError, match="metadata.csv: the labels .* in the column label would be read as one"):
        load(folder)


# Classes


@pytest.mark.parametrize("kind", ["folder", "string", "named"])
def test_class_without_training_or_test_images_is_named(write, write_tables, table, caplog, kind):
    counts = {"train": {"ant": 3, "bee": 3}, "test": {"ant": 2, "cow": 2}}
    if kind == "folder":
        folder = write(counts)
    else:
        names = ["ant", "bee", "cow"]
        label = ClassLabel(names=names) if kind == "named" else Value("string")
        labels = {split: [name for name in per for _ in range(per[name])] for split, per in counts.items()}
        folder = write_tables(**{split: table(values, label) for split, values in labels.items()})
    load(folder)
    lines = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert lines == ["1 class has no training image: cow", "1 class has no test image: bee"]


def test_class_without_training_images_in_the_sample_is_named(write, caplog):
    folder = write({"train": dict.fromkeys("abcd", 3), "test": dict.fromkeys("abcd", 1)})
    data = load(folder, max_train_samples=2)
    missing = sorted(set("abcd") - set(classes(data, "train")))
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"2 classes have no training image: {', '.join(missing)}"
    ]


ACCENT = "caf\u00e9"


@pytest.mark.parametrize(
    "one, other", [("Apple", "apple"), (ACCENT, unicodedata.normalize("NFD", ACCENT)), ("ice cream", "ice_cream ")]
)
@pytest.mark.parametrize("kind", ["folder", "string"])
@pytest.mark.parametrize("train", ["one", "both"])
def test_class_that_is_written_in_two_ways_is_refused(write, write_tables, table, one, other, kind, train):
    names = {"train": ["dog", one, *([other] if train == "both" else [])], "test": ["dog", other]}
    if kind == "folder":
        folder = write({split: dict.fromkeys(found, 2) for split, found in names.items()})
    else:
        folder = write_tables(**{split: table(2 * found, Value("string")) for split, found in names.items()})
    with pytest.raises(ValueError, match="look like one class, and some split lacks one of them"):
        load(folder)


def test_classes_that_differ_in_case_in_every_split_are_classes(write):
    letters = {"a": 2, "A": 2}
    assert classes(load(write({"train": letters, "test": letters})), "train") == letters


@pytest.mark.parametrize("values", [[10, 20, 500], [90_000, 7], [0, 1, 3], [2**40, 1]])
def test_integer_labels_are_names(write_tables, table, values):
    folder = write_tables(train=table(3 * values, Value("int64")), test=table(values, Value("int64")))
    data = load(folder)
    assert data.label_names == [str(value) for value in sorted(values)]
    assert [int(data.label_names[number]) for number in data.test.labels] == values


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_class_of_one_image_is_trained_on(write_tables, table, fraction):
    label = ClassLabel(names=["a", "b", "c", "d"])
    labels = [0, 1, *[2] * 12, *[3] * 13]
    folder = write_tables(train=table(labels, label), test=table([0, 1, 2, 3], label))
    for seed in range(6):
        data = load(folder, validation_fraction=fraction, split_seed=seed)
        assert set(classes(data, "train")) == {"a", "b", "c", "d"}
        assert len(data.train) + len(data.validation) == len(labels)


def test_no_image_is_held_out_where_each_is_its_class(write):
    folder = write({"train": dict.fromkeys("abcd", 1), "test": dict.fromkeys("abcd", 1)})
    with pytest.raises(ValueError, match="validation_fraction 0.25 can hold out no image"):
        load(folder, validation_fraction=0.25)


@pytest.mark.parametrize("kind", ["named", "string", "folder"])
@pytest.mark.parametrize("declared", [1, 2])
def test_one_class_alone_is_refused(write, write_tables, table, kind, declared):
    names = ["cat", "dog"][:declared]
    if kind == "folder":
        folder = write({"train": {"cat": 4}, "test": dict.fromkeys(names, 2)})
    else:
        label, of = (ClassLabel(names=names), range(declared)) if kind == "named" else (Value("string"), names)
        folder = write_tables(train=table([of[0]] * 4, label), test=table([*of] * 2, label))
    with pytest.raises(ValueError, match="all training images are of one class, cat: there must be two or more"):
        load(folder)


@pytest.mark.parametrize("where", ["test", "shard", "dataset_infos.json", "save_to_disk"])
def test_numbers_that_mean_other_classes_in_another_file_are_refused(tmp_path, write_tables, table, where):
    right, wrong = table([0, 1, 0, 1]), table([0, 1, 0, 1], ClassLabel(names=["bee", "ant"]))
    if where == "save_to_disk":
        folder = tmp_path / "saved"
        DatasetDict(train=right, test=wrong).save_to_disk(folder)
    elif where == "shard":
        folder = write_tables(train_00000_of_00002=right, train_00001_of_00002=wrong, test_00000_of_00001=right)
    else:
        folder = write_tables(train=right, test=wrong if where == "test" else right)
    if where == "dataset_infos.json":
        info = DatasetDict(train=wrong, test=wrong)["train"].info
        datasets.info.DatasetInfosDict({"default": info}).write_to_directory(folder)
    with pytest.raises(ValueError, match="column label mean other classes .*(ant or bee|bee or ant)"):
        load(folder)


# Tables


@pytest.mark.parametrize(
    "train, reason",
    [
        ([(0, 3)], "of the split train are missing: train-00001-of-00003, train-00002-of-00003. Add all 3"),
        ([(1, 2)], "missing: train-00000-of-00002"),
        ([(0, 2), (1, 2), (0, 1)], "the split train has the files of two versions"),
    ],
)
def test_incomplete_shards_are_refused(write_tables, table, train, reason):
    shards = {f"train_{number:05}_of_{count:05}": table([0, 1]) for number, count in train}
    folder = write_tables(**shards, test_00000_of_00001=table([0, 1]))
    with pytest.raises(ValueError, match=reason):
        load(folder)


@pytest.mark.parametrize("found", ["train", "train_00000_of_00001"])
def test_table_that_is_not_read_is_named(write_tables, table, caplog, found):
    folder = write_tables(**{found: table([0, 1])}, test_00000_of_00001=table([0, 1]), extra=table([0, 1]))
    if found == "train":  # of which `datasets` reads none beside files that are numbered
        with pytest.raises(ValueError, match="needs the splits train and test"):
            load(folder)
    else:
        load(folder)
    unread = "data/extra.parquet, data/train.parquet" if found == "train" else "data/extra.parquet"
    assert f"in {folder} are not read: {unread}" in caplog.text


def test_split_of_an_earlier_dataset_in_a_saved_one_is_not_read(tmp_path, table, caplog):
    DatasetDict(train=table([0, 1]), validation=table([0] * 5 + [1]), test=table([0] * 7)).save_to_disk(
        tmp_path / "saved"
    )
    DatasetDict(train=table([0, 1, 1, 0]), test=table([0, 1])).save_to_disk(tmp_path / "saved")
    data = load(tmp_path / "saved")
    assert classes(data, "train") == {"ant": 2, "bee": 2} and classes(data, "test") == {"ant": 1, "bee": 1}
    assert data.validation is None
    assert (
        f"in {tmp_path / 'saved'} are not read, since dataset_dict.json does not list them: validation/" in caplog.text
    )


@pytest.mark.parametrize(
    "content, reason",
    [("{", "it is not valid JSON"), ("{}", "it must list the"), ('{"splits": 5}', "it must list the")],
)
def test_damaged_list_of_splits_is_named(tmp_path, table, content, reason):
    DatasetDict(train=table([0, 1]), test=table([0, 1])).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "dataset_dict.json").write_text(content)
    with pytest.raises(ValueError, match=f"saved/dataset_dict.json cannot be read: {reason}"):
        load(tmp_path / "saved")


@pytest.mark.parametrize("layout", ["dict", "split by split"])
def test_saved_dataset_is_read_without_its_cache(tmp_path, table, layout):
    folder = tmp_path / "saved"
    saved = DatasetDict(train=table([0, 1, 1, 0]), test=table([0, 1]))
    if layout == "dict":
        saved.save_to_disk(folder)
    else:
        for split, part in saved.items():
            part.save_to_disk(folder / split)
    for split in saved:
        loaded = datasets.load_from_disk(str(folder / split))
        loaded.map(lambda row: {"label": 1 - row["label"]}, load_from_cache_file=False)
        assert list((folder / split).glob("cache-*.arrow"))
    before = sorted(folder.rglob("*"))
    data = load(folder)
    assert data.train.labels.tolist() == [0, 1, 1, 0] and data.test.labels.tolist() == [0, 1]
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "test, reason",
    [
        (lambda part: part.remove_columns("label"), "the split test has no column label, which train has"),
        (lambda part: part.remove_columns("image"), "the split test has no column image, which train has"),
        (lambda part: part.cast_column("label", Value("int64")), "labels of the split test are of another type"),
        (lambda part: part.cast_column("label", Value("string")), "labels of the split test are of another type"),
    ],
)
def test_saved_splits_that_are_not_alike_are_refused(tmp_path, table, test, reason):
    DatasetDict(train=table([0, 1]), test=test(table([0, 1]))).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=reason):
        load(tmp_path / "saved")


@pytest.mark.parametrize(
    "feature, values, reason",
    [
        (Value("bool"), [True, False], "no class labels, which are integers or strings, but bool"),
        (Value("float64"), [0.0, 1.0], "no class labels, which are integers or strings, but float64"),
        (datasets.List(Value("int64")), [[0], [1]], "no class labels, which are integers or strings, but List"),
        (Value("string"), ["ant", ""], "the column label is empty for some images"),
        (Value("string"), ["ant", " "], "the column label is empty for some images"),
    ],
)
def test_labels_that_are_no_classes(write_tables, table, feature, values, reason):
    with pytest.raises(ValueError, match=reason):
        load(write_tables(train=table(2 * values, feature), test=table(values, feature)))


def test_labels_of_which_none_is_a_class(write_tables, table):
    with pytest.raises(ValueError, match="the column label names no class"):
        load(write_tables(train=table([-1, -1], Value("int64")), test=table([-1], Value("int64"))))


# On the Hub

COUNT = """
import json, sys
import numpy as np
from hf_cifar_resnet import load_splits
data = load_splits("ann/pets", validation_fraction=0, image_size=8, **json.loads(sys.argv[1]))
counts = {part: np.bincount(getattr(data, part).labels).tolist() for part in ("train", "test")}
print(json.dumps([data.label_names, counts, data.provenance["revision"]]))
"""


def test_image_folder_on_the_hub(hub, tmp_path, noise):
    def png():
        noise().save(stream := io.BytesIO(), "PNG")
        return stream.getvalue()

    def count(**options):
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        command = [sys.executable, "-c", COUNT, json.dumps(options)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.splitlines()[-1])

    numbers = {"train/train": 4, "train/other": 3, "test/train": 2, "test/other": 1}
    files = {f"{folder}/{i}.png": png() for folder, number in numbers.items() for i in range(number)}
    hub.add_repo("ann/pets", {"README.md": "---\nlicense: mit\n---\n", **files}, kind="dataset")
    revision = hub.repos["dataset", "ann/pets"].branches["main"].sha
    expected = [["other", "train"], {"train": [3, 4], "test": [1, 2]}, revision]
    assert count() == expected
    hub.close()
    assert count(dataset_revision=revision) == expected
