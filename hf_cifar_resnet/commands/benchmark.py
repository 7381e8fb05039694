"""
Measure where the time goes on this machine: several candidates for the same work, in turns, with medians and quartiles.

hf-cifar-resnet benchmark input
hf-cifar-resnet benchmark step --depth 50 --global_batch_size 256 --torch_compile --profile
"""

import copy
import os
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch
from transformers import set_seed

from ..benchmark import inference, input, step, timing
from ..checkpoints.outputs import check_output
from ..data.splits import ImageSplits
from ..device import tune_process
from ..documents import write_json
from ..hub.resolve import find_pretrained
from ..model import CifarResNetForImageClassification
from ..runs.arguments import RunArguments
from ..training.arguments import CifarTrainingArguments, ResolvedArguments, resolve
from ..training.build import load_data_and_model
from ..training.record import hardware
from .line_parser import positive
from .parser import ALL_ARGUMENTS, CifarArgumentParser, CommandLine
from .session import quieten_libraries


def main(argv: Sequence[str], prog: str | None = None) -> dict[str, Any]:
    """Measure one kind, print the table, write `--json`, and return what it holds."""
    line = _parse(argv, prog)
    options = line.options
    with tempfile.TemporaryDirectory() as folder:  # in which a Trainer writes nothing
        given = line.arguments.replace(output_dir=folder)
        arguments = resolve(given)
        if arguments.training.fp16:
            raise ValueError("fp16: the loops to compare with have no gradient scaler; use bf16")
        quieten_libraries(arguments.training)
        tune_process(arguments.training.device)
        measure, repeats = KINDS[options.kind]
        result = {
            "benchmark": options.kind,
            "command": argv,
            "hardware": hardware(arguments.training),
            "torch": torch.__version__,
            "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
            **measure(options, options.repeats or repeats, given, arguments),
        }
    if options.json:
        write_json(result, options.json)
    return result


def _measure_input(
    options: Namespace, repeats: int, given: RunArguments, arguments: ResolvedArguments
) -> dict[str, Any]:
    torch.set_num_threads(1)
    candidates = input.make_candidates(arguments.data, (options.batch_sizes or [256])[0])
    rates = timing.measure_in_turns(candidates, repeats)
    return _print_table(rates, (input.OFFICIAL, input.NOTEBOOK), "images/s on one core")


def _measure_step(
    options: Namespace, repeats: int, given: RunArguments, arguments: ResolvedArguments
) -> dict[str, Any]:
    sizes: list[int] = options.batch_sizes or [arguments.training.train_batch_size]
    step.check_arguments(arguments.training)
    if max(sizes) > step.EPOCH:
        raise ValueError(f"--batch_sizes must be at most {step.EPOCH}, got {max(sizes)}")
    if options.steps > step.MAX_STEPS:
        raise ValueError(f"--steps must be at most {step.MAX_STEPS:,}, got {options.steps:,}")
    data, model, _ = load_data_and_model(arguments, find_pretrained(arguments.model.model_name_or_path))
    found = {}
    for size in sizes:
        args = resolve(given.replace(per_device_train_batch_size=size, global_batch_size=None)).training
        found[str(size)] = _measure_batch_size(options, repeats, copy.deepcopy(model), data, args)
    return {"batch_sizes": found}


def _measure_batch_size(
    options: Namespace,
    repeats: int,
    model: CifarResNetForImageClassification,
    data: ImageSplits,
    args: CifarTrainingArguments,
) -> dict[str, Any]:
    assert data.train is not None  # it was loaded for this
    set_seed(args.seed)
    args = args.with_precision_for(model)
    print(f"batch {args.per_device_train_batch_size}, {args.precision}{', compiled' if args.torch_compile else ''}")
    others = [precision for precision in options.precisions if precision != args.precision]
    times = step.measure(model, args, data.train, repeats, options.steps, options.profile, others)
    found = _print_table(times.rates, (step.BARE, step.STOCK), "images/s")
    speed = found["rates"][step.OURS]["median"]
    minutes = 50 * step.EPOCH / speed / 60
    print(f"our Trainer waited for data {times.data_wait:.1%} of its time; 50 epochs of {step.EPOCH:,} images would "
          f"take it {minutes:,.1f} minutes")  # fmt: skip
    if times.profile:
        print(times.profile)
    return found | {"data_wait": times.data_wait, "minutes_for_50_epochs": minutes, "profile": times.profile}


def _measure_inference(
    options: Namespace, repeats: int, given: RunArguments, arguments: ResolvedArguments
) -> dict[str, Any]:
    data, model, _ = load_data_and_model(arguments, find_pretrained(arguments.model.model_name_or_path))
    sizes = options.batch_sizes or inference.BATCH_SIZES
    candidates = inference.make_candidates(model, data.image_size, arguments.training, options.runtimes, sizes)
    found = {}
    for batch_size, runtimes in candidates.items():
        print(f"batch {batch_size}")
        rates = timing.measure_in_turns(runtimes, repeats)
        found[str(batch_size)] = _print_table(rates, options.runtimes[:1], "images/s")
    return {"batch_sizes": found}


def _print_table(rates: dict[str, list[float]], baselines: Sequence[str], unit: str) -> dict[str, Any]:
    ratios = {name: timing.compare(rates, name) for name in baselines}
    print(timing.table(rates, ratios, unit), flush=True)
    return {"unit": unit, "rates": {name: timing.spread(values) for name, values in rates.items()}, "ratios": ratios}


# The function that measures each kind, and how many turns each candidate gets by default.
KINDS = {
    "input": (_measure_input, 9),
    "step": (_measure_step, 20),
    "inference": (_measure_inference, 9),
}


def _parse(argv: Sequence[str], prog: str | None) -> CommandLine:
    description = "Measure where the time goes; all arguments of `train` apply, over the recipe quickstart."
    parser = CifarArgumentParser(ALL_ARGUMENTS, prog=prog, description=description)
    parser.add_argument("kind", choices=KINDS, help="what to measure")
    turns = ", ".join(f"{kind} {repeats}" for kind, (_, repeats) in KINDS.items())
    parser.add_argument("--repeats", type=positive, help=f"turns of each candidate (default: {turns})")
    parser.add_argument("--steps", type=positive, default=20, help="step: timed steps in a turn")
    # fp16 would need a gradient scaler, which the bare loop lacks.
    parser.add_argument("--precisions", nargs="+", default=(), choices=("fp32", "bf16"),
                        help="step: also time the bare loop in these")  # fmt: skip
    parser.add_argument("--profile", action="store_true", help="step: also print which operations take its time")
    parser.add_argument("--runtimes", nargs="+", default=inference.DEFAULT_RUNTIMES, choices=inference.RUNTIMES,
                        help="inference: what runs the model")  # fmt: skip
    sizes = f"images per batch (default: input 256, step the training batch, inference {inference.BATCH_SIZES})"
    parser.add_argument("--batch_sizes", nargs="+", type=positive, help=sizes)
    parser.add_argument("--json", metavar="FILE", help="also write all figures to this file")
    parser.set_defaults(config="quickstart")
    line = parser.parse(argv)
    if line.options.json is not None:
        check_output("--json", line.options.json, rb'\A{\n  "benchmark": "')
    return line
