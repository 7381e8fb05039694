"""The trained model that comes with the repository, `model_cards/resnet20-cifar100`."""

import json

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from hf_cifar_resnet import CifarResNetForImageClassification
from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.documents import read_json

from .conftest import REPOSITORY, use_elsewhere

MODEL = REPOSITORY / "model_cards" / "resnet20-cifar100"
# Photographs of CIFAR-100's test split, and the two classes that the model finds most probable.
IMAGES = REPOSITORY / "tests" / "images"
ANSWERS = {"bicycle": ["bicycle", "motorcycle"], "castle": ["castle", "house"], "whale": ["whale", "dolphin"]}


def test_its_code_is_that_of_the_package():
    package = REPOSITORY / "hf_cifar_resnet" / "model"
    names = {path.name for path in MODEL.glob("*.py")}
    assert names == {"configuration_cifar_resnet.py", "modeling_cifar_resnet.py"}
    for name in names:
        assert (MODEL / name).read_bytes() == (package / name).read_bytes(), name


def test_answers_on_three_photographs(capsys):
    arguments = [str(MODEL), str(IMAGES), "--top_k", "2", "--format", "json", "--use_cpu"]
    cli(["predict", *arguments])
    answers = json.loads(capsys.readouterr().out)
    found = {answer["image"].split("/")[-1].removesuffix(".png"): answer for answer in answers}
    assert {name: [each["label"] for each in answer["predictions"]] for name, answer in found.items()} == ANSWERS
    assert all(answer["predictions"][0]["score"] > 0.99 for answer in found.values())


@pytest.mark.slow
def test_it_loads_without_the_package(tmp_path):
    found = use_elsewhere(MODEL, tmp_path)
    assert len(found.labels) == 100
    with torch.no_grad():
        logits = CifarResNetForImageClassification.from_pretrained(MODEL).eval()(torch.from_numpy(found.pixels)).logits
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_its_card_has_the_accuracy_on_the_real_test_split(shared_dataset, tmp_path, capsys):
    """Up to the rounding of another CPU: five of 10,000 images."""
    data = ["--dataset_name", shared_dataset("cifar100"), "--use_cpu"]
    cli(["evaluate", str(MODEL), *data, "--json", str(tmp_path / "scores.json")])
    scores, recorded = read_json(tmp_path / "scores.json"), read_json(MODEL / "metrics.json")["test"]
    assert scores["top1"] == pytest.approx(recorded["top1"], abs=5e-4)
    carded = {each.metric_name: each.metric_value for each in ModelCard.load(MODEL / "README.md").data.eval_results}
    assert carded["top-1 accuracy"] == recorded["top1"]


def test_images_are_small_photographs():
    assert {path.stem: Image.open(path).size for path in IMAGES.iterdir()} == dict.fromkeys(ANSWERS, (32, 32))
