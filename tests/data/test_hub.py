"""Revisions of a dataset on the Hub, with and without the network, against a server that speaks its protocol."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from huggingface_hub import HfApi, hf_hub_download
from PIL import Image

from hf_cifar_resnet import load_splits

FEATURES = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
OPTIONS = {"validation_fraction": 0, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "augmentation": "none"}
LEVELS = {"first": 10, "second": 20, "third": 30}


@pytest.fixture
def commits(hub, tmp_path, monkeypatch):
    """The commits of `ann/levels`, whose images are of another grey level in each, by their tags; `third` is main."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.endpoint)
    address = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address)
    for cache in ("huggingface_hub.constants.HF_HUB_CACHE", "datasets.config.HF_DATASETS_CACHE"):
        monkeypatch.setattr(cache, str(tmp_path / cache))
    api = HfApi(endpoint=hub.endpoint, token="hf_ann")
    api.create_repo("ann/levels", repo_type="dataset")
    made = {}
    for tag, level in LEVELS.items():
        images = [Image.fromarray(np.full((32, 32, 3), level, dtype=np.uint8))] * 4
        table = Dataset.from_dict({"image": images, "label": [0, 1] * 2}, features=FEATURES)
        for split in ("train", "test"):
            table.to_parquet(tmp_path / "levels" / "data" / f"{split}-00000-of-00001.parquet")
        made[tag] = api.upload_folder(repo_id="ann/levels", repo_type="dataset", folder_path=tmp_path / "levels").oid
        api.create_tag("ann/levels", tag=tag, repo_type="dataset")
    return made


def load(revision):
    """The grey level and the commit that are read."""
    data = load_splits("ann/levels", dataset_revision=revision, **OPTIONS)
    return int(data.train.images[0, 0, 0, 0]), data.provenance["revision"]


@pytest.fixture
def go_offline(monkeypatch):
    def switch():
        for settled in ("huggingface_hub.constants", "datasets.config"):
            monkeypatch.setattr(f"{settled}.HF_HUB_OFFLINE", True)

    return switch


def test_revision_that_is_read_offline(commits, go_offline):
    for revision in ("first", None, "second"):  # cached last: second
        load(revision)
    go_offline()
    for tag, given in {"first": "first", "second": commits["second"], "third": None}.items():
        assert load(given) == (LEVELS[tag], commits[tag])
    for given in ("nowhere", "0" * 40, "first-1", "../../x"):
        message = f"ann/levels cannot be loaded from the Hub: .*{given}.*; give a local folder instead"
        with pytest.raises(ValueError, match=message) as refused:
            load(given)
        assert "\n" not in str(refused.value)


def test_no_revision_is_asked_for_offline(commits, go_offline):
    """Then what is there will do, but `main` is not what another revision is."""
    load("first")
    go_offline()
    assert load(None) == (LEVELS["first"], commits["first"])
    with pytest.raises(ValueError, match="main"):
        load("main")


@pytest.mark.slow  # the Hub is asked again and again, for half a minute
def test_revision_that_is_read_where_the_hub_is_out_of_reach(commits, hub):
    for revision in ("first", "second"):
        load(revision)
    hub.close()
    assert load("first") == (LEVELS["first"], commits["first"])


@pytest.fixture
def pets(commits, hub, png_that_claims):
    """`ann/pets` on the same Hub, a folder of images: four of each class in train, two in test."""
    counts = {"train": 4, "test": 2}
    places = [f"{split}/{name}/{i}.png" for split in counts for name in "ab" for i in range(counts[split])]
    hub.add_repo("ann/pets", dict.fromkeys(places, png_that_claims(1, 1)), kind="dataset")


def count(revision=None):
    data = load_splits("ann/pets", dataset_revision=revision, **OPTIONS)
    return len(data.train), len(data.test)


@pytest.mark.parametrize("revision", [None, "main"])
def test_image_folder_is_read_offline(pets, go_offline, revision):
    assert count(revision) == (8, 4)
    go_offline()
    assert count() == count("main") == (8, 4)
    with pytest.raises(ValueError, match="ann/pets cannot be loaded from the Hub"):
        count("nowhere")


def test_part_of_an_image_folder_is_not_taken_for_all_offline(pets, go_offline):
    for file in ("train/a/0.png", "train/b/0.png", "test/a/0.png", "test/b/0.png"):
        hf_hub_download("ann/pets", file, repo_type="dataset")
    go_offline()
    with pytest.raises(ValueError, match="ann/pets cannot be loaded from the Hub"):
        count()
