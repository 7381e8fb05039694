"""Images a second of a model that only predicts, by batch size and by what runs it."""

import copy

import torch

from ..inference.runtimes import RUNTIMES

BATCH_SIZES = (1, 32, 256)  # by default
# The other engines need the extra `export`, or more.
DEFAULT_ENGINES = ("eager", "channels_last", "compiled")
ENGINES = (*DEFAULT_ENGINES, *RUNTIMES)


def make_engine(name, model, pixels):
    """Return a function that predicts logits (batch, num_labels) of `pixel_values` that are on the model's device."""
    if name not in DEFAULT_ENGINES:  # one that takes arrays on the CPU
        predict, batch = RUNTIMES[name](model.cpu(), pixels.shape[-1]), pixels.cpu().numpy()
        return lambda: torch.from_numpy(predict(batch))
    if name != "eager":
        model, pixels = (each.to(memory_format=torch.channels_last) for each in (model, pixels))
    if name == "compiled":
        model = torch.compile(model, dynamic=False)
    return lambda: model(pixels).logits


def make_ways(model, image_size, args, engines, batch_sizes):
    """Return `{batch size: {engine: work}}` for [`take_turns`], in bf16 if `args` have it."""
    model, ways = model.to(args.device).eval(), {}
    for batch_size in batch_sizes:
        pixels = torch.randn(batch_size, 3, image_size, image_size, device=args.device)
        ways[batch_size] = {
            name: _make_work(make_engine(name, copy.deepcopy(model), pixels), batch_size, args) for name in engines
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
