"""Images a second of a model that only predicts, by batch size and by what runs it."""

import copy

import torch

from ..inference.runtimes import RUNTIMES

BATCH_SIZES = (1, 32, 256)
# The other engines need the extra `export`, or more.
DEFAULT_ENGINES = ("eager", "channels_last", "compiled")


def _eager(model, pixels):
    return lambda: model(pixels).logits


def _channels_last(model, pixels):
    return _eager(model.to(memory_format=torch.channels_last), pixels.to(memory_format=torch.channels_last))


def _compiled(model, pixels):
    compiled = torch.compile(model.to(memory_format=torch.channels_last), dynamic=False)
    return _eager(compiled, pixels.to(memory_format=torch.channels_last))


def _runtime(name):
    """Return one of `inference.runtimes`, which take arrays on the CPU, as an engine."""

    def engine(model, pixels):
        predict, batch = RUNTIMES[name](model.cpu(), pixels.shape[-1]), pixels.cpu().numpy()
        return lambda: torch.from_numpy(predict(batch))

    return engine


# Each takes a model in evaluation mode and `pixel_values` on its device, and returns a function that predicts logits
# (batch, num_labels).
ENGINES = {name: _runtime(name) for name in RUNTIMES} | {
    "eager": _eager,
    "channels_last": _channels_last,
    "compiled": _compiled,
}


def make_ways(model, image_size, args, engines, batch_sizes=BATCH_SIZES):
    """Return `{batch size: {engine: work}}` for [`take_turns`], in bf16 if `args` have it."""
    model, ways = model.to(args.device).eval(), {}
    for batch_size in batch_sizes:
        pixels = torch.randn(batch_size, 3, image_size, image_size, device=args.device)
        ways[batch_size] = {
            name: _make_work(ENGINES[name](copy.deepcopy(model), pixels), batch_size, args) for name in engines
        }
    return ways


def _make_work(predict, batch_size, args):
    @torch.inference_mode()
    def work():
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
            logits = predict()
        # The copy counts, since a prediction is made to be read.
        logits.float().cpu()
        return batch_size

    return work
