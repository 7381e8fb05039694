"""Writes a checkpoint as ONNX or as a torch.export program, checks it against PyTorch, and measures what it costs."""

from pathlib import Path

import numpy as np
import torch

from ..errors import UserError, reports_user_errors
from ..training.arguments import DataArguments
from ..training.outputs import check_output, writing
from ..training.parsing import CifarArgumentParser
from ..training.recorded import find_split, load_data_for, parse_with_record
from ..training.trained import load_checkpoint
from . import convert

ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
PRECISIONS = {"onnx": ("fp32", "fp16", "int8", "int8_dynamic"), "torch": ("fp32", "fp16")}
BATCH_SIZES = (1, 2, 7)
# Of the logits, where the largest is below 1; else relative to the largest.
TOLERANCE = 1e-4
BATCH_SIZE = 256


@reports_user_errors
def main(argv=None, prog=None):
    """Checkpoint -> exported file -> check against PyTorch -> accuracy on a split. Returns the figures."""
    options, data_args = _parse(argv, prog)
    model, processor = load_checkpoint(options.checkpoint)
    size = processor.size["height"]
    measured_on = options.split or ("test" if options.precision != "fp32" else None)
    needed = {measured_on, "train"} if options.precision == "int8" else {measured_on}
    data = load_data_for(options.checkpoint, data_args, model, processor, needed) if measured_on else None
    split = find_split(data, measured_on) if data else None
    normalization = (processor.image_mean, processor.image_std) if options.include_normalization else None
    reference = convert.Deployed(model, normalization).eval()
    half = options.precision == "fp16"
    deployed = convert.Deployed(model, normalization, torch.float16 if half else torch.float32).eval()
    # Takes its place only when it has passed.
    with writing(options.output) as aside:
        if options.format == "onnx":
            _write_onnx(options, deployed, size, aside, data, convert.onnx_metadata(model, processor))
        else:
            torch.export.save(convert.exported(deployed, size), aside)
        run = _runner(options.format, aside)
        found = _check(run, reference, model, size, exact=options.precision == "fp32")
        found |= {"bytes": aside.stat().st_size}
    takes = f"uint8 (batch, {size}, {size}, 3)" if normalization else f"float32 (batch, 3, {size}, {size}), normalised"
    print(
        f"Wrote {options.output}, {found['bytes'] / 1e6:.2f} MB; input {reference.input_name}: {takes}; output logits"
    )
    print(f"Logits differ from PyTorch's by at most {found['difference']:.2g} (of {found['largest']:.3g}), "
          f"batches of {', '.join(map(str, BATCH_SIZES))}")  # fmt: skip
    if split is not None:
        found |= _accuracy(run, model, reference.input_name, split)
        print(f"On {measured_on} of {data_args.dataset_name}, {len(split):,} images: top-1 {found['top1']:.2%}, "
              f"PyTorch {found['pytorch_top1']:.2%}; the same label for {found['agreement']:.2%}")  # fmt: skip
    return found


def _parse(argv, prog):
    parser = CifarArgumentParser(DataArguments, prog=prog, description="Write a checkpoint as ONNX or torch.export.")
    parser.add_argument("--format", required=True, choices=tuple(ENDINGS), help="onnx, or torch (torch.export, .pt2)")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS["onnx"], help="fp32 if not given; int8 finds "
                        "the ranges of activations on training images, int8_dynamic while it runs")  # fmt: skip
    parser.add_argument("--include_normalization", action="store_true", help="take uint8 images, not pixel_values")
    parser.add_argument("--output", metavar="FILE", help="beside the weights if not given")
    parser.add_argument("--split", choices=("train", "validation", "test"),
                        help="measure the accuracy on it; test if not given, except for fp32")  # fmt: skip
    parser.add_argument("--calibration_images", type=int, default=256, help="training images for int8 (256)")
    options, data_args, _ = parse_with_record(parser, argv)
    if options.precision not in PRECISIONS[options.format]:
        allowed = " or ".join(PRECISIONS[options.format])
        raise UserError(f"--format {options.format} has --precision {allowed}, not {options.precision}")
    if options.calibration_images < 1:
        raise UserError(f"--calibration_images must be at least 1, got {options.calibration_images}")
    if options.output is None:
        options.output = str(_default_output(options))
    check_output("--output", options.output, ending=ENDINGS[options.format])
    return options, data_args


def _default_output(options):
    folder = Path(options.checkpoint) if Path(options.checkpoint).is_dir() else Path()
    suffix = "" if options.precision == "fp32" else f"-{options.precision}"
    return folder / f"model{suffix}{ENDINGS[options.format]}"


def _write_onnx(options, deployed, size, path, data, metadata):
    if not options.precision.startswith("int8"):
        convert.write_onnx(deployed, size, path, metadata)
        return
    source = path.with_name(f"fp32-{path.name}")
    convert.write_onnx(deployed, size, source, metadata)
    if options.precision == "int8_dynamic":
        convert.quantize_dynamic(source, path)
    else:
        # Evenly spaced: the images may be sorted by class.
        count = min(options.calibration_images, len(data.train))
        chosen = np.linspace(0, len(data.train) - 1, count).astype(int).tolist()
        convert.quantize_static(source, path, [batch for batch, _ in _batches(data.train, deployed.input_name, chosen)])


def _batches(split, input_name, indices, batch_size=convert.CALIBRATION_BATCH):
    """Pairs of what the exported file takes and `pixel_values`, as `np.ndarray`s."""
    for start in range(0, len(indices), batch_size):
        chosen = list(indices[start : start + batch_size])
        pixels = split.__getitems__(chosen)["pixel_values"].numpy()
        yield np.asarray(split.images[chosen]) if input_name == "images" else pixels, pixels


def _runner(format, path):
    """The exported file as a function from a batch (`np.ndarray`) to logits."""
    if format == "onnx":
        return convert.onnx_callable(path)
    program = torch.export.load(path).module()
    return lambda batch: program(torch.from_numpy(batch)).detach().numpy()


@torch.inference_mode()
def _check(run, reference, model, size, exact):
    """Largest difference of the logits from PyTorch's, over batches of several sizes; of `exact` ones it is limited."""
    difference, largest = 0.0, 1.0
    for batch_size in BATCH_SIZES:
        batch = reference.example(batch_size, size, seed=batch_size)
        pixels = batch
        if reference.input_name == "images":
            pixels = (batch.permute(0, 3, 1, 2).float() - reference.mean) / reference.std
        found, expected = run(batch.numpy()), model(pixel_values=pixels).logits.numpy()
        if not (np.isfinite(found).all() and np.isfinite(expected).all()):
            raise UserError("the exported logits are not finite: the weights are too large; nothing was written")
        difference = max(difference, float(np.abs(found - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    if exact and difference > TOLERANCE * largest:
        raise UserError(f"the exported logits differ from PyTorch's by {difference:.2g}; nothing was written")
    return {"difference": difference, "largest": largest}


@torch.inference_mode()
def _accuracy(run, model, input_name, split):
    """Top-1 of the exported file and of PyTorch, and how often both say the same, on a split."""
    theirs, ours = [], []
    for batch, pixels in _batches(split, input_name, range(len(split)), BATCH_SIZE):
        theirs.append(run(batch).argmax(axis=1))
        ours.append(model(pixel_values=torch.from_numpy(pixels)).logits.numpy().argmax(axis=1))
    theirs, ours, labels = np.concatenate(theirs), np.concatenate(ours), split.labels.numpy()
    return {
        "top1": float((theirs == labels).mean()),
        "pytorch_top1": float((ours == labels).mean()),
        "agreement": float((theirs == ours).mean()),
    }
