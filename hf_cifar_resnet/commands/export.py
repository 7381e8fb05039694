"""`export`: write a checkpoint as ONNX or as a torch.export program, and compare it with the PyTorch model."""

from pathlib import Path

import torch

from ..checkpoints.load import find_split, load_checkpoint, load_data_for
from ..checkpoints.outputs import atomic_write, check_output
from ..errors import UserError, reports_user_errors
from ..inference import convert
from ..inference.export import BATCH_SIZES, ENDINGS, PRECISIONS, compare, load_runner, measure_accuracy, write_onnx_file
from ..training.arguments import DataArguments
from ..training.parser import CifarArgumentParser, parse_with_run_record


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
    with atomic_write(options.output) as aside:
        if options.format == "onnx":
            write_onnx_file(options, deployed, size, aside, data, convert.onnx_metadata(model, processor))
        else:
            torch.export.save(convert.export_program(deployed, size), aside)
        run = load_runner(options.format, aside)
        found = compare(run, reference, model, size, exact=options.precision == "fp32")
        found |= {"bytes": aside.stat().st_size}
    takes = f"uint8 (batch, {size}, {size}, 3)" if normalization else f"float32 (batch, 3, {size}, {size}), normalised"
    print(
        f"Wrote {options.output}, {found['bytes'] / 1e6:.2f} MB; input {reference.input_name}: {takes}; output logits"
    )
    print(f"Logits differ from PyTorch's by at most {found['difference']:.2g} (of {found['largest']:.3g}), "
          f"batches of {', '.join(map(str, BATCH_SIZES))}")  # fmt: skip
    if split is not None:
        found |= measure_accuracy(run, model, reference.input_name, split)
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
    options, data_args, _ = parse_with_run_record(parser, argv)
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
