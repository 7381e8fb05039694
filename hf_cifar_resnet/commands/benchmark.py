"""
Where the time goes, on this machine: several ways to do the same, in turns, with medians and spreads.

hf-cifar-resnet benchmark input
hf-cifar-resnet benchmark step --depth 50 --global_batch_size 256 --torch_compile --profile
"""

import os
import sys

from ..benchmark.inference import BATCH_SIZES, DEFAULT_ENGINES, ENGINES
from ..checkpoints.outputs import atomic_write, check_output
from ..errors import UserError, reports_user_errors
from ..reporting import run_record
from ..training.arguments import CifarTrainingArguments, DataArguments, ModelArguments
from ..training.parser import CifarArgumentParser

KINDS = ("input", "step", "inference", "startup")
# fp16 would need a gradient scaler too, which the bare loop lacks.
PRECISIONS = ("fp32", "bf16")
REPEATS = {"input": 9, "step": 20, "inference": 9, "startup": 5}


@reports_user_errors
def main(argv=None, prog=None):
    """Measures one kind, prints the table, writes `--json`, and returns what it holds."""
    argv = list(sys.argv[1:] if argv is None else argv)
    options, parsed = _parse(argv, prog)
    if options.json is not None:
        check_output("--json", options.json)
    found = globals()[f"_{options.kind}"](options, *parsed)
    result = {"benchmark": options.kind, "command": argv, **_machine(parsed[-1]), **found}
    if options.json:
        with atomic_write(options.json) as aside:
            run_record.write_json(result, aside)
    return result


def _parse(argv, prog):
    types = (ModelArguments, DataArguments, CifarTrainingArguments)
    description = "Measure where the time goes; all arguments of `train` apply, over the recipe quickstart."
    parser = CifarArgumentParser(types, prog=prog, description=description)
    parser.add_argument("kind", choices=KINDS, help="what to measure")
    parser.add_argument("--repeats", type=int, help=f"turns of each way; {REPEATS} if not given")
    parser.add_argument("--steps", type=int, default=20, help="step: timed steps in a turn")
    parser.add_argument(
        "--precisions", nargs="+", default=(), choices=PRECISIONS, help="step: also time the bare loop in these"
    )
    parser.add_argument("--profile", action="store_true", help="step: also print what its time is made of")
    parser.add_argument(
        "--engines", nargs="+", default=DEFAULT_ENGINES, choices=ENGINES, help="inference: what runs the model"
    )
    sizes = f"images at once; input: one size, 256, step: the training batch, inference: {BATCH_SIZES}, if not given"
    parser.add_argument("--batch_sizes", nargs="+", type=int, help=sizes)
    parser.add_argument("--json", metavar="FILE", help="also write all figures there")
    recipe = [] if any(word.split("=")[0] == "--config" for word in argv) else ["--config", "quickstart"]
    *parsed, options = parser.parse([*argv, *recipe])
    for name in ("repeats", "steps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.batch_sizes and min(options.batch_sizes) < 1:
        raise UserError(f"--batch_sizes must be at least 1, got {min(options.batch_sizes)}")
    options.repeats = options.repeats or REPEATS[options.kind]
    return options, parsed


def _machine(args):
    import torch

    from ..reporting.run_record import hardware

    return {
        "hardware": hardware(args),
        "torch": torch.__version__,
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def _input(options, model_args, data_args, args):
    import torch

    from ..benchmark import input, timing
    from ..training.build import quieten_libraries

    quieten_libraries(args)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rates = timing.take_turns(input.ways(data_args, (options.batch_sizes or [256])[0]), options.repeats)
    finally:
        torch.set_num_threads(threads)
    return _told(rates, (input.OFFICIAL, input.NOTEBOOK), "images/s on one core")


def _step(options, model_args, data_args, args):
    from ..benchmark import step
    from ..training.build import load_data, quieten_libraries

    quieten_libraries(args)
    data = load_data(data_args, args.seed)
    found = {}
    if max(options.batch_sizes or [1]) > step.EPOCH:
        raise UserError(f"--batch_sizes must be at most {step.EPOCH}, got {max(options.batch_sizes)}")
    for batch_size in options.batch_sizes or [args.per_device_train_batch_size]:
        args.per_device_train_batch_size = batch_size
        found[str(batch_size)] = _steps_of(options, model_args, data, args)
    return {"batch_sizes": found}


def _steps_of(options, model_args, data, args):
    import tempfile

    from transformers import set_seed

    from ..benchmark import ceilings, step
    from ..training.build import build_model

    set_seed(args.seed)
    model = build_model(model_args, data)
    args = args.suited_to(model)
    print(f"batch {args.per_device_train_batch_size}, {args.precision}{', compiled' if args.torch_compile else ''}")
    others = [precision for precision in options.precisions if precision != args.precision]
    with tempfile.TemporaryDirectory() as args.output_dir:
        rates, waiting, profile = step.measure(
            model, args, data.train, options.repeats, options.steps, options.profile, others
        )
    found = _told(rates, (step.BARE, step.SYNTHETIC), "images/s")
    speed = found["rates"][step.OURS]["median"]
    found |= {"data_wait": waiting, "minutes_for_50_epochs": 50 * step.EPOCH / speed / 60, "profile": profile}
    print(
        f"our Trainer waited for data {waiting:.1%} of its time; 50 epochs of {step.EPOCH:,} images would take it "
        f"{found['minutes_for_50_epochs']:,.1f} minutes"
    )
    if args.device.type == "cuda":
        found["ceilings"] = ceilings.shares(build_model(model_args, data), args, data.image_size, speed)
        print("\n".join(f"{name:<24} {value:.3g}" for name, value in found["ceilings"].items()))
    if profile:
        print(profile)
    return found


def _inference(options, model_args, data_args, args):
    from ..benchmark import inference, timing
    from ..training.build import build_model, load_data, quieten_libraries

    quieten_libraries(args)
    data = load_data(data_args, args.seed)
    model, found = build_model(model_args, data), {}
    sizes = options.batch_sizes or BATCH_SIZES
    ways = inference.ways(model, data.image_size, args, options.engines, sizes)
    for batch_size, engines in ways.items():
        print(f"batch {batch_size}")
        rates = timing.take_turns(engines, options.repeats)
        found[str(batch_size)] = _told(rates, options.engines[:1], "images/s")
    return {"batch_sizes": found}


def _startup(options, *parsed):
    from ..benchmark import startup

    seconds = startup.take_turns(startup.ways(), options.repeats)
    return _told(seconds, (startup.PARSER,), "seconds")


def _told(rates, baselines, unit):
    from ..benchmark import timing

    ratios = {name: timing.compare(rates, name) for name in baselines}
    print(timing.table(rates, ratios, unit), flush=True)
    return {"unit": unit, "rates": {name: timing.spread(values) for name, values in rates.items()}, "ratios": ratios}
