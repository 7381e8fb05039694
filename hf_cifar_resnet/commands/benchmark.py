"""
Measure where the time goes on this machine: several ways to do the same work, in turns, with medians and quartiles.

hf-cifar-resnet benchmark input
hf-cifar-resnet benchmark step --depth 50 --global_batch_size 256 --torch_compile --profile
"""

import os
import tempfile

import torch
from transformers import set_seed

from ..benchmark import inference, input, step, timing
from ..checkpoints.outputs import check_output
from ..documents import write_json
from ..errors import UserError
from ..training.build import build_model, load_data, quieten_libraries
from ..training.parser import ALL_ARGUMENTS, CifarArgumentParser
from ..training.record import hardware
from . import positive


def main(argv, prog=None):
    """Measure one kind, print the table, write `--json`, and return what it holds."""
    options, model_args, data_args, args = _parse(argv, prog)
    measure, repeats = KINDS[options.kind]
    options.repeats = options.repeats or repeats
    quieten_libraries(args)
    result = {
        "benchmark": options.kind,
        "command": argv,
        "hardware": hardware(args),
        "torch": torch.__version__,
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        **measure(options, model_args, data_args, args),
    }
    if options.json:
        write_json(result, options.json)
    return result


def _measure_input(options, model_args, data_args, args):
    torch.set_num_threads(1)
    ways = input.make_ways(data_args, (options.batch_sizes or [256])[0])
    rates = timing.take_turns(ways, options.repeats)
    return _print_table(rates, (input.OFFICIAL, input.NOTEBOOK), "images/s on one core")


def _measure_step(options, model_args, data_args, args):
    sizes = options.batch_sizes or [args.per_device_train_batch_size]
    if max(sizes) > step.EPOCH:
        raise UserError(f"--batch_sizes must be at most {step.EPOCH}, got {max(sizes)}")
    data, found = load_data(data_args, args), {}
    for args.per_device_train_batch_size in sizes:
        found[str(args.per_device_train_batch_size)] = _measure_batch_size(options, model_args, data, args)
    return {"batch_sizes": found}


def _measure_batch_size(options, model_args, data, args):
    set_seed(args.seed)
    model = build_model(model_args, data)
    args = args.with_precision_for(model)
    print(f"batch {args.per_device_train_batch_size}, {args.precision}{', compiled' if args.torch_compile else ''}")
    others = [precision for precision in options.precisions if precision != args.precision]
    with tempfile.TemporaryDirectory() as args.output_dir:
        rates, waiting, profile = step.measure(
            model, args, data.train, options.repeats, options.steps, options.profile, others
        )
    found = _print_table(rates, (step.BARE, step.SYNTHETIC), "images/s")
    speed = found["rates"][step.OURS]["median"]
    minutes = 50 * step.EPOCH / speed / 60
    print(f"our Trainer waited for data {waiting:.1%} of its time; 50 epochs of {step.EPOCH:,} images would take it "
          f"{minutes:,.1f} minutes")  # fmt: skip
    if profile:
        print(profile)
    return found | {"data_wait": waiting, "minutes_for_50_epochs": minutes, "profile": profile}


def _measure_inference(options, model_args, data_args, args):
    data, found = load_data(data_args, args), {}
    sizes = options.batch_sizes or inference.BATCH_SIZES
    ways = inference.make_ways(build_model(model_args, data), data.image_size, args, options.runtimes, sizes)
    for batch_size, runtimes in ways.items():
        print(f"batch {batch_size}")
        rates = timing.take_turns(runtimes, options.repeats)
        found[str(batch_size)] = _print_table(rates, options.runtimes[:1], "images/s")
    return {"batch_sizes": found}


def _print_table(rates, baselines, unit):
    ratios = {name: timing.compare(rates, name) for name in baselines}
    print(timing.table(rates, ratios, unit), flush=True)
    return {"unit": unit, "rates": {name: timing.spread(values) for name, values in rates.items()}, "ratios": ratios}


# The function that measures each kind, and how many turns each way gets by default.
KINDS = {
    "input": (_measure_input, 9),
    "step": (_measure_step, 20),
    "inference": (_measure_inference, 9),
}


def _parse(argv, prog):
    description = "Measure where the time goes; all arguments of `train` apply, over the recipe quickstart."
    parser = CifarArgumentParser(ALL_ARGUMENTS, prog=prog, description=description)
    parser.add_argument("kind", choices=KINDS, help="what to measure")
    turns = ", ".join(f"{kind} {repeats}" for kind, (_, repeats) in KINDS.items())
    parser.add_argument("--repeats", type=positive, help=f"turns of each way (default: {turns})")
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
    *parsed, options = parser.parse(argv)
    if parsed[-1].fp16:
        raise UserError("--fp16: the loops to compare with have no gradient scaler; use bf16")
    if options.json is not None:
        check_output("--json", options.json, rb'\A{\n  "benchmark": "')
    return options, *parsed
