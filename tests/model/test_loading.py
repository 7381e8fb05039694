import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from hf_cifar_resnet.model import CifarResNetConfig, CifarResNetForImageClassification, CifarResNetModel

PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def make_model(model_class):
    torch.manual_seed(0)
    shape = {"block": "basic", "stage_depths": [1, 1, 1], "stage_widths": [8, 16, 32]}
    model = model_class(CifarResNetConfig(**shape, id2label={0: "apple", 1: "bear", 2: "cup"}))
    with torch.no_grad():
        model.train()(PIXELS)  # moves the BatchNorm statistics away from their initial values
    return model.eval()


@torch.no_grad()
def outputs(model):
    return list(model(PIXELS).to_tuple())


@pytest.mark.lowest
@pytest.mark.parametrize("trust", [None, True])
def test_auto_classes_know_the_model(trust, tmp_path):
    model = make_model(CifarResNetForImageClassification)
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path, trust_remote_code=trust)) is CifarResNetConfig
    features = AutoModel.from_pretrained(tmp_path, trust_remote_code=trust)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, trust_remote_code=trust)
    assert type(features) is CifarResNetModel and type(loaded) is CifarResNetForImageClassification
    assert not loaded.training
    torch.testing.assert_close(outputs(features), outputs(model.resnet), rtol=0, atol=0)
    torch.testing.assert_close(outputs(loaded), outputs(model), rtol=0, atol=0)


def test_auto_classes_build_from_configuration():
    config = make_model(CifarResNetModel).config
    assert type(AutoModel.from_config(config)) is CifarResNetModel
    assert type(AutoModelForImageClassification.from_config(config)) is CifarResNetForImageClassification


def test_classifier_on_saved_features(tmp_path):
    features = make_model(CifarResNetModel)
    features.save_pretrained(tmp_path)
    model = CifarResNetForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(outputs(model.resnet), outputs(features), rtol=0, atol=0)


# Checkpoints of other versions

FIRST_RELEASE = Path(__file__).parent / "checkpoint-v1"


def test_checkpoint_of_the_first_release():
    """Written once, by version 0.1.0; the logits are those it gave then."""
    model = CifarResNetForImageClassification.from_pretrained(FIRST_RELEASE)
    pixels = torch.linspace(-2, 2, 3 * 32 * 32).view(1, 3, 32, 32)
    with torch.no_grad():
        logits = model(pixels).logits
    torch.testing.assert_close(logits, torch.tensor([[0.4701448082923889, 0.04853467643260956, 0.02252548560500145]]))
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "oak"} and model.config.dropout == 0.1
    assert not model.training


def edited(tmp_path, **changes):
    folder = shutil.copytree(FIRST_RELEASE, tmp_path / "edited")
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in (config | changes).items() if value != "absent"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_format_version(tmp_path):
    model = CifarResNetForImageClassification.from_pretrained(edited(tmp_path / "old", format_version="absent"))
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["format_version"] == 1
    with pytest.raises(ValueError, match=r"format_version 17 is later .* update the package"):
        CifarResNetForImageClassification.from_pretrained(edited(tmp_path / "new", format_version=17))
