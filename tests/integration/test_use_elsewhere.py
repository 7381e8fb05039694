"""A run's folder, used by a process that cannot import the package."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_cifar_resnet import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    CifarTrainer,
    CifarTrainingArguments,
    ImageDataset,
)
from hf_cifar_resnet.documents import read_json

from .conftest import ENVIRONMENT, use_elsewhere

pytestmark = pytest.mark.lowest


@pytest.fixture(scope="module")
def found(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("elsewhere")
    found = use_elsewhere(finished.folder, out)
    found.again = out / "again"
    return found


def test_logits_are_those_of_the_trainer(finished, found, tmp_path):
    processor = read_json(finished.folder / "preprocessor_config.json")
    data = ImageDataset(found.images, np.zeros(8), processor["image_mean"], processor["image_std"])
    model = CifarResNetForImageClassification.from_pretrained(finished.folder)
    args = CifarTrainingArguments(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    logits = CifarTrainer(model, args, eval_dataset=data).predict(data).predictions
    np.testing.assert_array_equal(found.pixels, data.__getitems__(range(8))["pixel_values"])
    np.testing.assert_allclose(found.logits, logits, atol=1e-5)


def test_pipeline_answers_with_the_label_names(found):
    assert found.top == [found.labels[i] for i in found.logits.argmax(axis=1)]
    assert len(found.labels) == 100 and set(found.odd) <= set(found.labels)
    assert found.features == [8, 64, 1, 1]
    # An opaque RGBA image and the RGB image that it shows have the same label.
    assert found.odd[0] == found.odd[4] == found.top[0]


@pytest.mark.parametrize("saved", ["here", "elsewhere"])
def test_with_the_package_no_remote_code_is_needed(finished, found, saved):
    """For what was saved elsewhere neither, and it has its code along."""
    folder = finished.folder if saved == "here" else found.again
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert isinstance(model, CifarResNetForImageClassification) and (folder / "modeling_cifar_resnet.py").is_file()
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(found.pixels)).logits
    torch.testing.assert_close(logits, torch.from_numpy(found.logits), atol=1e-5, rtol=0)


# Loads each of the folders, and prints what the code of each says of itself.
LOAD_EACH = """
import json, sys
sys.modules["hf_cifar_resnet"] = None
from transformers import AutoModel, AutoModelForImageClassification

for auto in (AutoModelForImageClassification, AutoModel):
    models = [auto.from_pretrained(folder, trust_remote_code=True) for folder in sys.argv[1:]]
    print(json.dumps([(model.code, model.config.code) for model in models]))
"""
CODE = {
    "modeling_cifar_resnet.py": "CifarResNetPreTrainedModel.code = {!r}",
    "configuration_cifar_resnet.py": "CifarResNetConfig.code = {!r}",
}


def test_each_folder_of_the_same_name_runs_its_own_code(tmp_path):
    """Whether the file of the model, of the configuration, or both differ from those before."""
    config = CifarResNetConfig(block="basic", stage_depths=[1], stage_widths=[8], num_labels=2)
    model, expected, folders = CifarResNetForImageClassification(config), [["a", "x"], ["b", "x"], ["b", "y"]], []
    for said in expected:
        folders.append(tmp_path / "-".join(said) / "run")
        model.save_pretrained(folders[-1])
        for (name, line), word in zip(CODE.items(), said, strict=True):
            with open(folders[-1] / name, "a", encoding="utf-8") as file:
                file.write("\n" + line.format(word) + "\n")
    command = [sys.executable, "-I", "-c", LOAD_EACH, *folders]
    environment = ENVIRONMENT | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert [json.loads(line) for line in result.stdout.splitlines()] == [expected, expected]
