"""`export`: write a checkpoint as ONNX or as a torch.export program, and compare it with the PyTorch model."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..checkpoints.load import load_checkpoint, load_with_data
from ..checkpoints.outputs import check_output
from ..data.arguments import DataArguments
from ..documents import atomic_write
from ..hub.resolve import resolve_checkpoint
from ..inference.convert import ExportableModel, export_program, onnx_metadata
from ..inference.export import (
    BATCH_SIZE,
    BATCH_SIZES,
    ENDINGS,
    MARK,
    PATTERNS,
    PRECISIONS,
    compare,
    load_exported,
    measure_accuracy,
    write_onnx_file,
)
from .line_parser import positive
from .parser import CifarArgumentParser, parse_with_run_record


def main(argv: Sequence[str] | None, prog: str | None = None) -> dict[str, Any]:
    """Export a checkpoint, compare its logits and its accuracy with PyTorch's, and return the figures."""
    # 1. Model and data
    options, data_args = _parse(argv, prog)
    folder = resolve_checkpoint(options.checkpoint)
    split: str | None = options.split or ("test" if options.precision != "fp32" else None)
    needed = {name for name in (split, "train" if options.precision == "int8" else None) if name is not None}
    if needed:
        loaded = load_with_data(folder, data_args, needed, name=options.checkpoint)
        if options.precision == "int8":
            loaded.check_has_all_classes("--precision int8")
        model, processor, data = loaded.model, loaded.processor, loaded.data
    else:
        (model, processor), data, loaded = load_checkpoint(folder), None, None
    size: int = processor.size["height"]

    # 2. Export. The file gets its name only after it has passed the comparison.
    normalization = (processor.image_mean, processor.image_std) if options.include_normalization else None
    dtype = torch.float16 if options.precision == "fp16" else torch.float32
    exportable = ExportableModel(model, normalization, dtype).eval()
    with atomic_write(options.output) as file:
        if options.format == "onnx":
            calibration = data.train if data else None
            write_onnx_file(
                exportable, size, file, onnx_metadata(model, processor), options.precision, calibration,
                options.calibration_images or BATCH_SIZE,
            )  # fmt: skip
        else:
            torch.export.save(export_program(exportable, size), file, extra_files={MARK: __version__})
        predict = load_exported(options.format, file)
        comparison = compare(predict, exportable, model, size, exact=options.precision == "fp32")
        found = asdict(comparison) | {"bytes": file.stat().st_size}
    takes = f"uint8 (batch, {size}, {size}, 3)" if normalization else f"float32 (batch, 3, {size}, {size}), normalised"
    print(
        f"Wrote {options.output}, {found['bytes'] / 1e6:.2f} MB; input {exportable.input_name}: {takes}; output logits"
    )
    print(
        f"Logits differ from PyTorch's by at most {comparison.difference:.2g} (of {comparison.largest:.3g}), "
        f"batches of {', '.join(map(str, BATCH_SIZES))}"
    )

    # 3. Accuracy
    if loaded is not None and split is not None and data_args is not None:
        images = loaded.images(split)
        accuracy = measure_accuracy(predict, exportable.input_name, model, images)
        found |= asdict(accuracy)
        print(
            f"On {split} of {data_args.dataset_name}, {len(images):,} images: top-1 {accuracy.top1:.2%}, "
            f"PyTorch {accuracy.pytorch_top1:.2%}; the same label for {accuracy.agreement:.2%}"
        )
        if note := loaded.describe_classes(split):
            print(note)
    return found


def _parse(argv: Sequence[str] | None, prog: str | None) -> tuple[Namespace, DataArguments | None]:
    parser = CifarArgumentParser(DataArguments, prog=prog, description="Write a checkpoint as ONNX or torch.export.")
    parser.add_argument("--format", required=True, choices=tuple(ENDINGS), help="onnx, or torch (torch.export, .pt2)")
    ranges = "int8 finds the ranges of activations on training images, int8_dynamic at inference"
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS["onnx"], help=ranges)
    parser.add_argument("--include_normalization", action="store_true", help="take uint8 images, not pixel_values")
    parser.add_argument("--output", metavar="FILE", help="file to write (default: beside the weights)")
    parser.add_argument("--split", choices=("train", "validation", "test"),
                        help="measure the accuracy on this split (default: test, but none for fp32)")  # fmt: skip
    parser.add_argument("--calibration_images", type=positive, help="training images for int8 (default: 256)")
    options, data_args, _ = parse_with_run_record(parser, argv)
    if options.precision not in PRECISIONS[options.format]:
        allowed = " or ".join(PRECISIONS[options.format])
        raise ValueError(f"--format {options.format} has --precision {allowed}, not {options.precision}")
    if options.calibration_images is not None and options.precision != "int8":
        raise ValueError(f"--calibration_images is for --precision int8, not {options.precision}: leave it out")
    if options.output is None:
        folder = Path(options.checkpoint) if Path(options.checkpoint).is_dir() else Path()
        suffix = "" if options.precision == "fp32" else f"-{options.precision}"
        options.output = str(folder / f"model{suffix}{ENDINGS[options.format]}")
    check_output("--output", options.output, PATTERNS[options.format], ending=ENDINGS[options.format])
    return options, data_args
