"""`export`: files that other programs run, with the same answers."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification, load_splits
from hf_cifar_resnet.benchmark.inference import make_runtime
from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.commands.export import main as export
from hf_cifar_resnet.data.dataset import collate, normalize
from hf_cifar_resnet.data.shapes import LABEL_NAMES
from hf_cifar_resnet.inference.convert import fold_batch_norm

WITHOUT_ONNX = "not tested: ONNX files, since onnxruntime is not installed"
RUN = "--dataset_name shapes100 --max_train_samples 100 --max_eval_samples 100".split()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model for shapes100 whose BatchNorms have something to fold, saved."""
    data = load_splits("shapes100", max_train_samples=200, max_eval_samples=100, augmentation="none")
    torch.manual_seed(0)
    config = CifarResNetConfig(
        block="bottleneck", stage_depths=[1, 2], stage_widths=[16, 32], id2label=data.id2label, label2id=data.label2id,
        dropout=0.1, calibration_temperature=1.5,
    )  # fmt: skip
    model = CifarResNetForImageClassification(config)
    batch = collate(data.train.__getitems__(range(200)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(15):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("to-export")
    model.eval().save_pretrained(folder)
    data.image_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def fp32_file(checkpoint, tmp_path_factory):
    """The checkpoint as ONNX, with its normalised pixels as the input."""
    pytest.importorskip("onnxruntime", reason=WITHOUT_ONNX)
    path = tmp_path_factory.mktemp("exported") / "fp32.onnx"
    cli(["export", str(checkpoint), "--format", "onnx", "--output", str(path)])
    return path


@pytest.fixture
def reference(checkpoint):
    """uint8 images (5, 32, 32, 3), their `pixel_values`, and the model's logits."""
    model = CifarResNetForImageClassification.from_pretrained(checkpoint).eval()
    processor = json.loads((checkpoint / "preprocessor_config.json").read_text())
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    pixels = normalize(images, processor["image_mean"], processor["image_std"])
    with torch.no_grad():
        return images, pixels, model(pixel_values=pixels).logits


def test_folding_keeps_the_function(checkpoint, reference):
    model = CifarResNetForImageClassification.from_pretrained(checkpoint).eval()
    folded = fold_batch_norm(model)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    _, pixels, logits = reference
    torch.testing.assert_close(folded(pixel_values=pixels).logits, logits, rtol=1e-4, atol=1e-4)
    assert [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)], "the model itself is left alone"


@pytest.mark.slow
def test_onnx_in_fp16_with_normalization_gives_the_logits_of_the_model(checkpoint, reference, tmp_path):
    pytest.importorskip("onnxruntime", reason=WITHOUT_ONNX)
    path = tmp_path / "m.onnx"
    options = ["--format", "onnx", "--precision", "fp16", "--output", str(path), "--include_normalization"]
    cli(["export", str(checkpoint), *options, *RUN])
    images, _, logits = reference
    check_onnx(path, "images", images, logits, 0.05)


@pytest.mark.lowest
def test_onnx_gives_the_logits_of_the_model(fp32_file, reference):
    _, pixels, logits = reference
    check_onnx(fp32_file, "pixel_values", pixels.numpy(), logits, 1e-4)


def check_onnx(path, input_name, batch, logits, tolerance):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    assert [value.shape[0] for value in (*session.get_inputs(), *session.get_outputs())] == ["batch", "batch"]
    for count in (5, 1):
        assert session.get_inputs()[0].name == input_name
        [found] = session.run(["logits"], {input_name: batch[:count]})
        np.testing.assert_allclose(found, logits[:count], atol=tolerance)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"])[0] == LABEL_NAMES[0]
    assert json.loads(metadata["image_mean"]) and metadata["calibration_temperature"] == "1.5"


@pytest.mark.parametrize("normalization", [[], ["--include_normalization"]], ids=["pixel_values", "images"])
def test_torch_export_gives_the_logits_of_the_model(checkpoint, reference, tmp_path, normalization):
    path = tmp_path / "m.pt2"
    cli(["export", str(checkpoint), "--format", "torch", "--output", str(path), *normalization])
    program = torch.export.load(path).module()
    images, pixels, logits = reference
    batch = torch.from_numpy(images) if normalization else pixels
    for count in (5, 1):
        torch.testing.assert_close(program(batch[:count]), logits[:count], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.lowest
@pytest.mark.parametrize("precision", ["int8", "int8_dynamic"])
def test_int8_is_smaller_and_its_accuracy_is_measured(checkpoint, fp32_file, tmp_path, capsys, precision):
    path = tmp_path / "int8.onnx"
    found = export([str(checkpoint), "--format", "onnx", "--precision", precision, "--output", str(path), *RUN])
    assert path.stat().st_size == found["bytes"] < 0.7 * fp32_file.stat().st_size
    assert 1e-4 < found["difference"] < 0.5 * found["largest"]
    # 100 images, 100 classes: far from chance.
    assert found["agreement"] > 0.7
    assert f"100 images: top-1 {found['top1']:.2%}, PyTorch {found['pytorch_top1']:.2%}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8.onnx"]


def test_export_that_overflows_is_not_written(checkpoint, tmp_path, refused):
    """Weights that float32 has and float16 has not."""
    folder = shutil.copytree(checkpoint, tmp_path / "large")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"classifier.bias": weights["classifier.bias"] + 1e6}, folder / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    line = refused("export", folder, "--format", "torch", "--precision", "fp16", *RUN)
    assert "the exported logits are not finite" in line
    assert not list(folder.glob("*.pt2"))


@pytest.mark.parametrize("name, tolerance", [("eager", 0), ("folded", 1e-4), ("onnx", 1e-4), ("onnx-int8", 0.3)])
def test_runtime_of_the_benchmark_agrees_with_the_model(checkpoint, reference, name, tolerance):
    if "onnx" in name:
        pytest.importorskip("onnxruntime", reason=WITHOUT_ONNX)
    model = CifarResNetForImageClassification.from_pretrained(checkpoint).eval()
    _, pixels, logits = reference
    predict = make_runtime(name, model, pixels)
    with torch.inference_mode():
        np.testing.assert_allclose(predict(), logits, atol=tolerance)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--format", "torch", "--precision", "int8"], "has --precision fp32 or fp16, not int8"),
        (["--format", "torch", "--precision", "fp16"], "give a dataset_name"),
        (["--format", "torch", "--output", "no/such/model.pt2"], "cannot be written"),
        (["--format", "tflite"], "invalid choice"),
        (["--format", "onnx", "--calibration_images", "0"], "at least 1"),
        (["--format", "onnx", "--calibration_images", "9"], "--calibration_images is for --precision int8, not fp32"),
    ],
)
def test_bad_arguments(checkpoint, tmp_path, monkeypatch, refused, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(checkpoint.iterdir())
    assert message in refused("export", checkpoint, *arguments)
    assert sorted(checkpoint.iterdir()) == before and not list(tmp_path.iterdir())
