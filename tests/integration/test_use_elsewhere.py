"""A run's folder, used by a process that cannot import the package."""

import json

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.lowest

ELSEWHERE = """
import json, sys
sys.modules["hf_cifar_resnet"] = None
import numpy as np, torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

folder, out = sys.argv[1:]
images = [Image.fromarray(array) for array in np.load(f"{out}/images.npy")]
trust = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(folder, **trust)
pixels = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="pt")["pixel_values"]
with torch.no_grad():
    logits = AutoModelForImageClassification.from_pretrained(folder, **trust).eval()(pixels).logits
    features = AutoModel.from_pretrained(folder, **trust).eval()(pixels).pooler_output
classify = pipeline("image-classification", model=folder, **trust)
odd = [images[0].convert(mode).resize(size) for mode in ("RGB", "L", "RGBA", "P") for size in ((32, 32), (50, 17))]
answers = {"top": [answer[0]["label"] for answer in classify(images)], "odd": [a[0]["label"] for a in classify(odd)],
           "labels": list(config.id2label.values()), "features": list(features.shape)}
np.savez(f"{out}/found.npz", pixels=pixels, logits=logits)
json.dump(answers, open(f"{out}/answers.json", "w"))
"""


@pytest.fixture(scope="module")
def elsewhere(python, finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("elsewhere")
    np.save(out / "images.npy", np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8))
    (out / "program.py").write_text(ELSEWHERE)
    result = python("-I", out / "program.py", finished.folder, out, cwd=out)
    assert result.returncode == 0, result.stderr
    return np.load(out / "images.npy"), np.load(out / "found.npz"), json.loads((out / "answers.json").read_text())


def test_logits_are_those_of_the_trainer(finished, elsewhere, tmp_path):
    from hf_cifar_resnet import CifarResNetForImageClassification, CifarTrainer, CifarTrainingArguments, ImageDataset
    from hf_cifar_resnet.reporting.run_record import read_json

    images, found, _ = elsewhere
    processor = read_json(finished.folder / "preprocessor_config.json")
    data = ImageDataset(images, np.zeros(len(images)), processor["image_mean"], processor["image_std"])
    model = CifarResNetForImageClassification.from_pretrained(finished.folder)
    args = CifarTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    logits = CifarTrainer(model, args, eval_dataset=data).predict(data).predictions
    np.testing.assert_array_equal(found["pixels"], data.__getitems__(range(8))["pixel_values"])
    np.testing.assert_allclose(found["logits"], logits, atol=1e-5)


def test_pipeline_answers_with_the_label_names(elsewhere):
    _, found, answers = elsewhere
    assert answers["top"] == [answers["labels"][i] for i in found["logits"].argmax(axis=1)]
    assert len(answers["labels"]) == 100 and set(answers["odd"]) <= set(answers["labels"])
    assert answers["features"] == [8, 64, 1, 1]


def test_with_the_package_no_remote_code_is_needed(finished, elsewhere):
    from transformers import AutoModelForImageClassification

    from hf_cifar_resnet import CifarResNetForImageClassification

    _, found, _ = elsewhere
    model = AutoModelForImageClassification.from_pretrained(finished.folder)
    assert isinstance(model, CifarResNetForImageClassification)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(found["pixels"])).logits
    torch.testing.assert_close(logits, torch.from_numpy(found["logits"]), atol=1e-5, rtol=0)


def test_mode_of_the_image_does_not_matter_where_the_pixels_do_not(elsewhere):
    """An opaque RGBA image and the RGB image it shows have the same label."""
    _, _, answers = elsewhere
    assert answers["odd"][0] == answers["odd"][4] == answers["top"][0]
