"""What a GPU can do at most, measured, and the share of it that a training step uses."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from .step import timed

MATRIX = 8192
COPIED_BYTES = 2**31


def shares(model, args, image_size, images_per_second):
    """
    The measured ceilings of the device and the share of each that training at this speed takes.

    A training step counts as three forward passes (forward, and the gradients of inputs and of weights). Its least
    traffic is that of unfused layers, each reading its input and writing its output once a pass, so that a compiled
    step can do with less and a share above 1 is possible.
    """
    device, dtype = args.device, torch.bfloat16 if args.bf16 else torch.float32
    matmul, bandwidth = matmul_ceiling(device, dtype), bandwidth_ceiling(device)
    flops, moved = cost_of_an_image(model.to(device), image_size, device, dtype)
    return {
        "matmul_tflops": matmul / 1e12,
        "matmul_share": 3 * flops * images_per_second / matmul,
        "bandwidth_gb_per_second": bandwidth / 1e9,
        "bandwidth_share": 3 * moved * images_per_second / bandwidth,
    }


def matmul_ceiling(device, dtype, size=MATRIX, repeats=20):
    """Floating-point operations a second of a large square matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def run(times):
        for _ in range(times):
            a @ b

    run(3)
    return 2 * size**3 * repeats / timed(run, repeats, device)


def bandwidth_ceiling(device, size=COPIED_BYTES, repeats=20):
    """Bytes a second that a copy within the device's memory reads and writes."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def run(times):
        for _ in range(times):
            target.copy_(source)

    run(3)
    return 2 * size * repeats / timed(run, repeats, device)


@torch.no_grad()
def cost_of_an_image(model, image_size, device, dtype):
    """Floating-point operations, and bytes that layers without parts read and write, of one forward pass."""
    moved, handles = 0, []

    def count(module, inputs, output):
        nonlocal moved
        moved += (inputs[0].numel() + output.numel()) * dtype.itemsize

    for module in model.modules():
        if not list(module.children()) and not isinstance(module, (torch.nn.Identity, torch.nn.Dropout)):
            handles.append(module.register_forward_hook(count))
    was_training = model.training
    try:
        with FlopCounterMode(display=False) as counter:
            model.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return counter.get_total_flops(), moved
