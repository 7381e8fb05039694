"""
Runtimes for a model on the CPU, with as many threads as torch.

Each takes a [`CifarResNetForImageClassification`] and the image size, and returns a function from `pixel_values` to
logits, both float32 `np.ndarray`.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from .convert import Deployed, onnx_callable, quantize_static, require_module, write_onnx


def folded(model, image_size=32):
    """PyTorch with the BatchNorms folded into the convolutions."""
    deployed = Deployed(model)
    return torch.inference_mode()(lambda batch: deployed(torch.from_numpy(batch)).numpy())


def onnx(model, image_size=32):
    """ONNX Runtime, fp32."""
    with tempfile.TemporaryDirectory() as folder:
        return onnx_callable(_fp32_file(model, image_size, folder))


def onnx_int8(model, image_size=32, calibration=None):
    """ONNX Runtime, 8-bit, calibrated on `pixel_values`; on noise by default, which is good for timing alone."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = _fp32_file(model, image_size, folder), Path(folder, "int8.onnx")
        if calibration is None:
            calibration = Deployed(model).example(32, image_size).numpy()
        quantize_static(source, target, [calibration])
        return onnx_callable(target)


def openvino(model, image_size=32):
    """OpenVINO, fp32. No extra of the package installs it, since ONNX Runtime is as fast."""
    ov = require_module("openvino")
    with tempfile.TemporaryDirectory() as folder:
        network = ov.Core().read_model(_fp32_file(model, image_size, folder))
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        request = ov.Core().compile_model(network, "CPU", settings).create_infer_request()
    return lambda batch: request.infer([np.ascontiguousarray(batch)])[0]


RUNTIMES = {"folded": folded, "onnx": onnx, "onnx-int8": onnx_int8, "openvino": openvino}


def _fp32_file(model, image_size, folder):
    path = Path(folder, "fp32.onnx")
    write_onnx(Deployed(model), image_size, path)
    return path
