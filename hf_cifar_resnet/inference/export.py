"""Write an exported model, compare its logits with PyTorch's, and measure its accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..data.dataset import ImageDataset
from ..evaluation.scoring import predict_logits
from ..model import CifarResNetForImageClassification
from .convert import ExportableModel, Predict, load_onnx, quantize_dynamic, quantize_static, write_onnx

Format = Literal["onnx", "torch"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
PRECISIONS: dict[Format, tuple[str, ...]] = {
    "onnx": ("fp32", "fp16", "int8", "int8_dynamic"),
    "torch": ("fp32", "fp16"),
}
# Of what a file contains: `convert.onnx_metadata` has the temperature, and an archive the names of its files.
MARK = "hf_cifar_resnet"
PATTERNS: dict[Format, bytes] = {"onnx": rb"calibration_temperature", "torch": MARK.encode()}
BATCH_SIZES = (1, 2, 7)
# The largest difference of logits: absolute where the largest is below 1, else relative to the largest.
TOLERANCE = 1e-4
BATCH_SIZE = 256


@dataclass(frozen=True)
class Comparison:
    """How far the logits of an exported file are from PyTorch's at most, and the largest logit."""

    difference: float
    largest: float


@dataclass(frozen=True)
class Accuracy:
    """The top-1 of an exported file and of PyTorch on a split, and the share of images that get the same label."""

    top1: float
    pytorch_top1: float
    agreement: float


def write_onnx_file(
    exportable: ExportableModel,
    image_size: int,
    path: Path,
    metadata: dict[str, str],
    precision: str = "fp32",
    calibration: ImageDataset | None = None,
    calibration_images: int = BATCH_SIZE,
) -> None:
    """
    Write an ONNX file; fp16 is the type of the exportable model.

    Args:
        metadata: see [`~hf_cifar_resnet.inference.convert.onnx_metadata`].
        precision: one of `PRECISIONS`.
        calibration: the images on which int8 finds the ranges of activations, of which it takes some evenly.
        calibration_images: how many.
    """
    source = path.with_name(f"fp32-{path.name}") if precision.startswith("int8") else path
    write_onnx(exportable, image_size, source, metadata)
    if precision == "int8_dynamic":
        quantize_dynamic(source, path)
    elif precision == "int8":
        if calibration is None:
            raise ValueError("int8 needs images to find the ranges of activations on")
        # Evenly spaced, since the images may be sorted by class.
        count = min(calibration_images, len(calibration))
        chosen = np.linspace(0, len(calibration) - 1, count).astype(int).tolist()
        quantize_static(source, path, _batches(calibration, exportable.input_name, chosen))


def _batches(images: ImageDataset, input_name: str, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield batches of an exported file's input."""
    for start in range(0, len(indices), BATCH_SIZE):
        chosen = list(indices[start : start + BATCH_SIZE])
        if input_name == "images":
            yield np.asarray(images.images[chosen])
        else:
            yield images.__getitems__(chosen)["pixel_values"].numpy()


def load_exported(format: Format, path: Path) -> Predict:
    """Load an exported file on the CPU."""
    if format == "onnx":
        return load_onnx(path)
    program = torch.export.load(path).module()
    return lambda batch: program(torch.from_numpy(batch)).detach().numpy()


@torch.no_grad()
def compare(
    predict: Predict,
    exportable: ExportableModel,
    model: CifarResNetForImageClassification,
    image_size: int,
    exact: bool,
) -> Comparison:
    """
    Compare the logits of an exported file with PyTorch's on noise, over several batch sizes. Raises `ValueError` if
    logits are not finite, or of an `exact` export differ by more than the tolerance.
    """
    difference, largest = 0.0, 1.0
    for batch_size in BATCH_SIZES:
        batch = exportable.example(batch_size, image_size, seed=batch_size)
        found = predict(batch.numpy())
        expected = model(pixel_values=exportable.normalize(batch)).logits.numpy()
        if not (np.isfinite(found).all() and np.isfinite(expected).all()):
            raise ValueError("the exported logits are not finite: the weights are too large; nothing was written")
        difference = max(difference, float(np.abs(found - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    if exact and difference > TOLERANCE * largest:
        raise ValueError(f"the exported logits differ from PyTorch's by {difference:.2g}; nothing was written")
    return Comparison(difference, largest)


def measure_accuracy(
    predict: Predict, input_name: str, model: CifarResNetForImageClassification, images: ImageDataset
) -> Accuracy:
    """Measure the accuracy of an exported file on a split, and that of the model."""
    batches = _batches(images, input_name, range(len(images)))
    found = np.concatenate([predict(batch).argmax(axis=1) for batch in batches])
    expected, labels = predict_logits(model, images).argmax(axis=1), images.labels.numpy()
    return Accuracy(
        top1=float((found == labels).mean()),
        pytorch_top1=float((expected == labels).mean()),
        agreement=float((found == expected).mean()),
    )
