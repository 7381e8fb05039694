"""Write an exported model, compare its logits with PyTorch's, and measure its accuracy."""

import numpy as np
import torch

from ..errors import UserError
from . import convert

ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
# Of what a file contains: `convert.onnx_metadata` has the temperature, and an archive the names of its files.
MARK = "hf_cifar_resnet"
PATTERNS = {"onnx": rb"calibration_temperature", "torch": MARK.encode()}
PRECISIONS = {"onnx": ("fp32", "fp16", "int8", "int8_dynamic"), "torch": ("fp32", "fp16")}
BATCH_SIZES = (1, 2, 7)
# The largest difference of logits: absolute where the largest is below 1, else relative to the largest.
TOLERANCE = 1e-4
BATCH_SIZE = 256


def write_onnx_file(options, deployed, size, path, data, metadata):
    source = path.with_name(f"fp32-{path.name}") if options.precision.startswith("int8") else path
    convert.write_onnx(deployed, size, source, metadata)
    if options.precision == "int8_dynamic":
        convert.quantize_dynamic(source, path)
    elif options.precision == "int8":
        # Evenly spaced, since the images may be sorted by class.
        count = min(options.calibration_images, len(data.train))
        chosen = np.linspace(0, len(data.train) - 1, count).astype(int).tolist()
        convert.quantize_static(source, path, [batch for batch, _ in _batches(data.train, deployed.input_name, chosen)])


def _batches(split, input_name, indices):
    """Yield pairs of the exported file's input and `pixel_values`, as `np.ndarray`s."""
    for start in range(0, len(indices), BATCH_SIZE):
        chosen = list(indices[start : start + BATCH_SIZE])
        pixels = split.__getitems__(chosen)["pixel_values"].numpy()
        yield np.asarray(split.images[chosen]) if input_name == "images" else pixels, pixels


def load_runner(format, path):
    """Load an exported file. Return a function from a batch (`np.ndarray`) to logits."""
    if format == "onnx":
        return convert.onnx_callable(path)
    program = torch.export.load(path).module()
    return lambda batch: program(torch.from_numpy(batch)).detach().numpy()


@torch.inference_mode()
def compare(predict, deployed, model, size, exact):
    """
    Return the largest difference of the logits from PyTorch's, over several batch sizes, and the largest logit. Raises
    [`UserError`] if logits are not finite, or of an `exact` export differ by more than the tolerance.
    """
    difference, largest = 0.0, 1.0
    for batch_size in BATCH_SIZES:
        batch = deployed.example(batch_size, size, seed=batch_size)
        found, expected = predict(batch.numpy()), model(pixel_values=deployed.normalize(batch)).logits.numpy()
        if not (np.isfinite(found).all() and np.isfinite(expected).all()):
            raise UserError("the exported logits are not finite: the weights are too large; nothing was written")
        difference = max(difference, float(np.abs(found - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    if exact and difference > TOLERANCE * largest:
        raise UserError(f"the exported logits differ from PyTorch's by {difference:.2g}; nothing was written")
    return {"difference": difference, "largest": largest}


@torch.inference_mode()
def measure_accuracy(predict, model, input_name, split):
    """Measure on a split the top-1 of the exported file and of PyTorch, and how often both agree."""
    theirs, ours = [], []
    for batch, pixels in _batches(split, input_name, range(len(split))):
        theirs.append(predict(batch).argmax(axis=1))
        ours.append(model(pixel_values=torch.from_numpy(pixels)).logits.numpy().argmax(axis=1))
    theirs, ours, labels = np.concatenate(theirs), np.concatenate(ours), split.labels.numpy()
    return {
        "top1": float((theirs == labels).mean()),
        "pytorch_top1": float((ours == labels).mean()),
        "agreement": float((theirs == ours).mean()),
    }
