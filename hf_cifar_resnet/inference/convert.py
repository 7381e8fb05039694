"""A trained model in other forms: BatchNorm folded, ONNX, 8-bit integers."""

import copy
import json
import logging
import warnings
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from ..checkpoints.load import label_names
from ..errors import UserError

CALIBRATION_BATCH = 32
# In torchvision's blocks and stem, and in the Sequential of a downsampling shortcut.
CONVOLUTIONS_WITH_NORMS = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1"))


def fold_batch_norm(model):
    """A copy in evaluation mode whose convolutions do what the BatchNorms after them did: the same function."""
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        children = dict(module.named_children())
        for convolution, norm in CONVOLUTIONS_WITH_NORMS:
            if isinstance(children.get(norm), nn.BatchNorm2d):
                folded = nn.utils.fuse_conv_bn_eval(children[convolution], children[norm])
                setattr(module, convolution, folded)
                setattr(module, norm, nn.Identity())
    return model


class Deployed(nn.Module):
    """
    What is exported: an image batch to logits float32 (batch, num_labels).

    Args:
        model ([`CifarResNetForImageClassification`]): copied, its BatchNorms folded.
        normalization (two lists of three floats, *optional*): mean and standard deviation of the channels, on the
            scale 0 to 1. With it the input is `images`, uint8 (batch, height, width, 3); without it `pixel_values`,
            normalised float32 (batch, 3, height, width).
        dtype (`torch.dtype`): what to compute in; input and output stay as they are.
    """

    def __init__(self, model, normalization=None, dtype=torch.float32):
        super().__init__()
        self.input_name = "pixel_values" if normalization is None else "images"
        folded = fold_batch_norm(model.cpu())
        backbone = folded.resnet.backbone
        self.stages = nn.ModuleList([getattr(backbone, name) for name in backbone.stage_names])
        self.stem = nn.Sequential(backbone.conv1, backbone.relu, backbone.maxpool)
        self.classifier = folded.classifier
        self.to(dtype)
        self.dtype = dtype
        if normalization is not None:
            # Grey levels, as the image processors have them.
            for name, values in zip(("mean", "std"), normalization, strict=True):
                self.register_buffer(name, 255 * torch.tensor(values, dtype=torch.float32).view(3, 1, 1))

    def forward(self, batch):
        if self.input_name == "images":
            batch = (batch.permute(0, 3, 1, 2).to(torch.float32) - self.mean) / self.std
        features = self.stem(batch.to(self.dtype))
        for stage in self.stages:
            features = stage(features)
        return self.classifier(features.mean((2, 3))).to(torch.float32)

    def example(self, batch_size, image_size, seed=0):
        """A batch of noise of the right type and shape."""
        generator = torch.Generator().manual_seed(seed)
        if self.input_name == "images":
            shape = (batch_size, image_size, image_size, 3)
            return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return torch.randn(batch_size, 3, image_size, image_size, generator=generator)


def exported(deployed, image_size):
    """A `torch.export.ExportedProgram` for any batch size."""
    with torch.no_grad(), _quiet():
        example = (deployed.example(2, image_size),)
        return torch.export.export(deployed, example, dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))


def write_onnx(deployed, image_size, path, metadata=None):
    """Writes an ONNX file for any batch size, with `metadata` (a dict of text) in it. Needs the extra `export`."""
    onnx = needed("onnx")
    needed("onnxscript")
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            exported(deployed, image_size),
            f=str(path),
            input_names=[deployed.input_name],
            output_names=["logits"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata or {})
    onnx.save(model, path)


def onnx_metadata(model, processor):
    """What a program needs beside an ONNX file: the labels, and how images become its input."""
    return {
        "labels": json.dumps(label_names(model), ensure_ascii=False),
        "image_size": str(processor.size["height"]),
        "image_mean": json.dumps(list(processor.image_mean)),
        "image_std": json.dumps(list(processor.image_std)),
        "calibration_temperature": str(model.config.calibration_temperature),
    }


def quantize_dynamic(source, target):
    """ONNX file to ONNX file: 8-bit weights; activations are quantised while it runs."""
    quantization = needed("onnxruntime.quantization", "onnxruntime")
    with _quiet():
        quantization.quantize_dynamic(source, target, weight_type=quantization.QuantType.QUInt8)


def quantize_static(source, target, batches):
    """
    ONNX file to ONNX file: 8-bit weights per output channel, 8-bit activations with ranges found on images.

    Args:
        batches (list of `np.ndarray`): what the file's input takes, from the training images.
    """
    quantization = needed("onnxruntime.quantization", "onnxruntime")
    onnx = needed("onnx")
    name = onnx.load(source).graph.input[0].name

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.remaining = iter(batches)

        def get_next(self):
            batch = next(self.remaining, None)
            return None if batch is None else {name: batch}

    with _quiet():
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )


def onnx_callable(path, threads=None):
    """An ONNX file in ONNX Runtime on the CPU, as a function from a batch (`np.ndarray`) to logits."""
    onnxruntime = needed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: np.ascontiguousarray(batch)})[0]


def needed(module, package=None):
    """An optional module. Raises [`UserError`] where it is not installed."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(f"{package or module} is not installed: pip install 'hf-cifar-resnet[export]'") from error


@contextmanager
def _quiet():
    """Without the exporters' progress and advice."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
