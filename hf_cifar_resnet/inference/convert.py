"""Convert a trained model: BatchNorm folded, torch.export, ONNX, 8-bit integers."""

import copy
import json
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from ..checkpoints.load import label_names, quiet
from ..errors import require


def fold_batch_norm(model):
    """Return a copy in evaluation mode, in which BatchNorms are merged into the convolutions before them."""
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        for (convolution_name, convolution), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(norm, nn.BatchNorm2d):
                setattr(module, convolution_name, nn.utils.fuse_conv_bn_eval(convolution, norm))
                setattr(module, norm_name, nn.Identity())
    return model


class Deployed(nn.Module):
    """
    The module that is exported: a copy of a model with BatchNorms folded, from a batch to logits.

    Args:
        model ([`CifarResNetForImageClassification`]).
        normalization (two lists of three floats, *optional*): mean and standard deviation of the channels, on the
            scale 0 to 1. With it the input is `images`, uint8 (batch, height, width, 3), else `pixel_values`.
        dtype (`torch.dtype`): the type of the computation, but not of input and output.
    """

    def __init__(self, model, normalization=None, dtype=torch.float32):
        super().__init__()
        self.input_name = "pixel_values" if normalization is None else "images"
        self.model = fold_batch_norm(model.cpu()).to(dtype)
        if normalization is not None:
            # Images are grey levels from 0 to 255.
            for name, values in zip(("mean", "std"), normalization, strict=True):
                self.register_buffer(name, 255 * torch.tensor(values, dtype=torch.float32).view(3, 1, 1))

    def forward(self, batch):
        return self.model(pixel_values=self.normalize(batch).to(self.model.dtype)).logits.to(torch.float32)

    def normalize(self, batch):
        """Return the `pixel_values` of a batch of the input."""
        if self.input_name == "pixel_values":
            return batch
        return (batch.permute(0, 3, 1, 2).to(torch.float32) - self.mean) / self.std

    def example(self, batch_size, image_size, seed=0):
        """Return a batch of noise of the right type and shape."""
        generator = torch.Generator().manual_seed(seed)
        if self.input_name == "images":
            shape = (batch_size, image_size, image_size, 3)
            return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return torch.randn(batch_size, 3, image_size, image_size, generator=generator)


def export_program(deployed, image_size):
    """Return a `torch.export.ExportedProgram` for any batch size."""
    with torch.no_grad(), quiet():
        example = (deployed.example(2, image_size),)
        return torch.export.export(deployed, example, dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))


def write_onnx(deployed, image_size, path, metadata=None):
    """Write an ONNX file for any batch size, with `metadata` (a dict of text) in it."""
    require("onnxscript", "export")
    names = {"input_names": [deployed.input_name], "output_names": ["logits"], "dynamic_shapes": ({0: "batch"},)}
    with quiet():
        program = torch.onnx.export(export_program(deployed, image_size), **names, dynamo=True, verbose=False)
        program.model.metadata_props.update(metadata or {})
        program.save(path)


def onnx_metadata(model, processor):
    """Return the labels and the preprocessing of images, which a program needs beside an ONNX file."""
    return {
        "labels": json.dumps(label_names(model), ensure_ascii=False),
        "image_size": str(processor.size["height"]),
        "image_mean": json.dumps(list(processor.image_mean)),
        "image_std": json.dumps(list(processor.image_std)),
        "calibration_temperature": str(model.config.calibration_temperature),
    }


def quantize_dynamic(source, target):
    """Quantise an ONNX file to 8-bit weights; activations are quantised at run time."""
    require("onnxruntime", "export")
    from onnxruntime import quantization

    with quiet():
        quantization.quantize_dynamic(source, target, weight_type=quantization.QuantType.QUInt8)


def quantize_static(source, target, batches):
    """Quantise an ONNX file to 8-bit weights and activations, whose ranges are found on batches of its input."""
    require("onnxruntime", "export")
    require("onnx", "export")
    import onnx
    from onnxruntime import quantization

    name = onnx.load(source).graph.input[0].name
    inputs = iter([{name: batch} for batch in batches])

    class Reader(quantization.CalibrationDataReader):
        def get_next(self):
            return next(inputs, None)

    with quiet():
        quantization.quantize_static(
            source, target, Reader(), per_channel=True, activation_type=quantization.QuantType.QUInt8
        )


def onnx_callable(path):
    """Load an ONNX file into ONNX Runtime on the CPU. Return a function from a batch (`np.ndarray`) to logits."""
    require("onnxruntime", "export")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: np.ascontiguousarray(batch)})[0]
