"""`export`: write a checkpoint as ONNX or as a torch.export program, and compare it with the PyTorch model."""

from pathlib import Path

import torch

from .. import __version__
from ..checkpoints.load import load_checkpoint, load_data_for
from ..checkpoints.outputs import check_output
from ..data.arguments import DataArguments
from ..documents import atomic_write
from ..errors import UserError
from ..hub.resolve import resolve
from ..inference import convert
from ..inference.export import (
    BATCH_SIZES,
    ENDINGS,
    MARK,
    PATTERNS,
    PRECISIONS,
    compare,
    load_runner,
    measure_accuracy,
    write_onnx_file,
)
from .line_parser import positive
from .parser import CifarArgumentParser, parse_with_run_record


def main(argv, prog=None):
    """Export a checkpoint, compare its logits and its accuracy with PyTorch's, and return the figures."""
    options, data_args = _parse(argv, prog)
    model, processor = load_checkpoint(resolve(options.checkpoint))
    size, name = processor.size["height"], options.split or ("test" if options.precision != "fp32" else None)
    needed = {name, "train"} if options.precision == "int8" else {name}
    data = load_data_for(options.checkpoint, data_args, model, processor, needed) if name else None
    split = getattr(data, name) if data else None
    normalization = (processor.image_mean, processor.image_std) if options.include_normalization else None
    dtype = torch.float16 if options.precision == "fp16" else torch.float32
    deployed = convert.Deployed(model, normalization, dtype).eval()
    # The file gets its name only after it has passed the comparison.
    with atomic_write(options.output) as file:
        if options.format == "onnx":
            write_onnx_file(options, deployed, size, file, data, convert.onnx_metadata(model, processor))
        else:
            torch.export.save(convert.export_program(deployed, size), file, extra_files={MARK: __version__})
        predict = load_runner(options.format, file)
        found = compare(predict, deployed, model, size, exact=options.precision == "fp32")
        found["bytes"] = file.stat().st_size
    takes = f"uint8 (batch, {size}, {size}, 3)" if normalization else f"float32 (batch, 3, {size}, {size}), normalised"
    written = f"Wrote {options.output}, {found['bytes'] / 1e6:.2f} MB"
    print(f"{written}; input {deployed.input_name}: {takes}; output logits\n"
          f"Logits differ from PyTorch's by at most {found['difference']:.2g} (of {found['largest']:.3g}), "
          f"batches of {', '.join(map(str, BATCH_SIZES))}")  # fmt: skip
    if split is not None:
        found |= measure_accuracy(predict, model, deployed.input_name, split)
        print(f"On {name} of {data_args.dataset_name}, {len(split):,} images: top-1 {found['top1']:.2%}, "
              f"PyTorch {found['pytorch_top1']:.2%}; the same label for {found['agreement']:.2%}")  # fmt: skip
    return found


def _parse(argv, prog):
    parser = CifarArgumentParser(DataArguments, prog=prog, description="Write a checkpoint as ONNX or torch.export.")
    parser.add_argument("--format", required=True, choices=tuple(ENDINGS), help="onnx, or torch (torch.export, .pt2)")
    ranges = "int8 finds the ranges of activations on training images, int8_dynamic at inference"
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS["onnx"], help=ranges)
    parser.add_argument("--include_normalization", action="store_true", help="take uint8 images, not pixel_values")
    parser.add_argument("--output", metavar="FILE", help="file to write (default: beside the weights)")
    parser.add_argument("--split", choices=("train", "validation", "test"),
                        help="measure the accuracy on this split (default: test, but none for fp32)")  # fmt: skip
    parser.add_argument("--calibration_images", type=positive, default=256, help="training images for int8")
    options, data_args, _ = parse_with_run_record(parser, argv)
    if options.precision not in PRECISIONS[options.format]:
        allowed = " or ".join(PRECISIONS[options.format])
        raise UserError(f"--format {options.format} has --precision {allowed}, not {options.precision}")
    if options.output is None:
        folder = Path(options.checkpoint) if Path(options.checkpoint).is_dir() else Path()
        suffix = "" if options.precision == "fp32" else f"-{options.precision}"
        options.output = str(folder / f"model{suffix}{ENDINGS[options.format]}")
    check_output("--output", options.output, PATTERNS[options.format], ending=ENDINGS[options.format])
    return options, data_args
