"""Convert a trained model: BatchNorm folded, torch.export, ONNX, 8-bit integers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ..checkpoints.load import label_names, quiet
from ..errors import require
from ..model import CifarResNetForImageClassification

if TYPE_CHECKING:
    from transformers import ViTImageProcessor

# Of the channels: mean and standard deviation, on the scale 0 to 1.
Normalization = tuple[Sequence[float], Sequence[float]]
# A function from a batch of images to logits float32 (batch, num_labels).
Predict = Callable[[np.ndarray], np.ndarray]


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, in which BatchNorms are merged into the convolutions before them."""
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        for (convolution_name, convolution), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, convolution_name, nn.utils.fuse_conv_bn_eval(convolution, norm))
                setattr(module, norm_name, nn.Identity())
    return model


class ExportableModel(nn.Module):
    """
    The module that is exported: a copy of a model with BatchNorms folded, from a batch to logits.

    Args:
        model: it is moved to the CPU.
        normalization: with it the input is `images`, uint8 (batch, height, width, 3), else `pixel_values`.
        dtype: the type of the computation, but not of input and output.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        model: CifarResNetForImageClassification,
        normalization: Normalization | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.input_name = "pixel_values" if normalization is None else "images"
        self.dtype = dtype
        self.model: nn.Module = fold_batch_norm(model.cpu()).to(dtype)
        if normalization is not None:
            # Images are grey levels from 0 to 255.
            mean, std = (255 * torch.tensor(values, dtype=torch.float32).view(3, 1, 1) for values in normalization)
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=self.normalize(batch).to(self.dtype)).logits.to(torch.float32)

    def normalize(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the `pixel_values` of a batch of the input."""
        if self.input_name == "pixel_values":
            return batch
        return (batch.permute(0, 3, 1, 2).to(torch.float32) - self.mean) / self.std

    def example(self, batch_size: int, image_size: int, seed: int = 0) -> torch.Tensor:
        """Return a batch of noise of the input's type and shape."""
        generator = torch.Generator().manual_seed(seed)
        if self.input_name == "images":
            shape = (batch_size, image_size, image_size, 3)
            return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return torch.randn(batch_size, 3, image_size, image_size, generator=generator)


def export_program(exportable: ExportableModel, image_size: int) -> torch.export.ExportedProgram:
    """Return a program of torch.export for any batch size."""
    with torch.no_grad(), quiet():
        example = (exportable.example(2, image_size),)
        return torch.export.export(exportable, example, dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))


def write_onnx(
    exportable: ExportableModel, image_size: int, path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write an ONNX file for any batch size, with `metadata` in it. Raises `ImportError` without onnxscript."""
    require("onnxscript", "export")
    with quiet():
        program = torch.onnx.export(
            export_program(exportable, image_size),
            input_names=[exportable.input_name],
            output_names=["logits"],
            dynamic_shapes=({0: "batch"},),
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # with dynamo=True
        program.model.metadata_props.update(metadata or {})
        program.save(path)


def onnx_metadata(model: CifarResNetForImageClassification, processor: ViTImageProcessor) -> dict[str, str]:
    """Return the labels and the preprocessing of images, which a program needs beside an ONNX file."""
    return {
        "labels": json.dumps(label_names(model), ensure_ascii=False),
        "image_size": str(processor.size["height"]),
        "image_mean": json.dumps(list(processor.image_mean)),
        "image_std": json.dumps(list(processor.image_std)),
        "calibration_temperature": str(model.config.calibration_temperature),
    }


def quantize_dynamic(source: Path, target: Path) -> None:
    """Quantise an ONNX file to 8-bit weights; activations are quantised at run time."""
    require("onnxruntime", "export")
    from onnxruntime import quantization

    with quiet():
        quantization.quantize_dynamic(source, target, weight_type=quantization.QuantType.QUInt8)


def quantize_static(source: Path, target: Path, batches: Iterable[np.ndarray]) -> None:
    """Quantise an ONNX file to 8-bit weights and activations, whose ranges are found on batches of its input."""
    require("onnxruntime", "export")
    require("onnx", "export")
    import onnx
    from onnxruntime import quantization

    name = onnx.load(source).graph.input[0].name
    inputs = iter([{name: batch} for batch in batches])

    class Reader(quantization.CalibrationDataReader):
        def get_next(self):  # pyright: ignore[reportIncompatibleMethodOverride] (None is the end, by its documentation)
            return next(inputs, None)

    with quiet():
        quantization.quantize_static(
            source, target, Reader(), per_channel=True, activation_type=quantization.QuantType.QUInt8
        )


def load_onnx(path: Path) -> Predict:
    """Load an ONNX file into ONNX Runtime on the CPU. Raises `ImportError` without onnxruntime."""
    require("onnxruntime", "export")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: np.asarray(session.run(None, {name: np.ascontiguousarray(batch)})[0])
