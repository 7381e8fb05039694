"""Images a second of a model that only predicts, by batch size and by what runs it."""

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import TrainingArguments

from ..errors import require
from ..inference.convert import ExportableModel, load_onnx, quantize_static, write_onnx
from ..model import CifarResNetForImageClassification
from .timing import Work

BATCH_SIZES = (1, 32, 256)  # by default
DEFAULT_RUNTIMES = ("eager", "channels_last", "compiled")
# ONNX Runtime, from the extra `export`, and OpenVINO, which no extra installs: on the CPU, with torch's threads.
ONNX_RUNTIMES = ("onnx", "onnx-int8", "openvino")
RUNTIMES = (*DEFAULT_RUNTIMES, "folded", *ONNX_RUNTIMES)


def make_runtime(
    name: str, model: CifarResNetForImageClassification, pixels: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """Return a function that predicts logits (batch, num_labels) of `pixel_values` that are on the model's device."""
    if name in ONNX_RUNTIMES:
        batch = pixels.cpu().numpy()
        predict = _load_onnx(name, model, batch)
        return lambda: torch.from_numpy(predict(batch))
    if name == "folded":
        folded = ExportableModel(model).to(pixels.device)
        return lambda: folded(pixels)
    if name != "eager":
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        pixels = pixels.to(memory_format=torch.channels_last)
    predict = torch.compile(model, dynamic=False) if name == "compiled" else model
    return lambda: predict(pixels).logits


def _load_onnx(
    name: str, model: CifarResNetForImageClassification, batch: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the runtime's function from `pixel_values` to logits; its 8-bit ranges are good for timing alone."""
    with tempfile.TemporaryDirectory() as folder:
        path, int8 = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        write_onnx(ExportableModel(model), batch.shape[-1], path)
        if name == "openvino":
            require("openvino", None)
            import openvino  # pyright: ignore[reportMissingImports]

            core = openvino.Core()
            settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
            request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
            return lambda batch: request.infer([batch])[0]
        if name == "onnx-int8":
            quantize_static(path, int8, [batch])
        return load_onnx(int8 if name == "onnx-int8" else path)


def make_candidates(
    model: CifarResNetForImageClassification,
    image_size: int,
    args: TrainingArguments,
    runtimes: Sequence[str],
    batch_sizes: Sequence[int],
) -> dict[int, dict[str, Work]]:
    """Return `{batch size: {runtime: work}}` for [`measure_in_turns`], in bf16 if `args` have it."""
    model = model.to(args.device).eval()  # pyright: ignore[reportArgumentType]
    candidates = {}
    for batch_size in batch_sizes:
        pixels = torch.randn(batch_size, 3, image_size, image_size, device=args.device)
        candidates[batch_size] = {
            name: _make_work(make_runtime(name, copy.deepcopy(model), pixels), batch_size, args) for name in runtimes
        }
    return candidates


def _make_work(predict: Callable[[], torch.Tensor], batch_size: int, args: TrainingArguments) -> Work:
    @torch.inference_mode()
    def work():
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
            logits = predict()
        # The copy counts, since a prediction is made to be read.
        logits.float().cpu()
        return batch_size

    return work
