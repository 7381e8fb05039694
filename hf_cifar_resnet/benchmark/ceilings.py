"""The highest measured speeds of a GPU, and the share of them that a training step reaches."""

import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from .timing import time_steps


def shares(model, args, image_size, images_per_second):
    """
    Return the measured ceilings of the device and the share of each that training at this speed reaches.

    A training step counts as three forward passes (forward, and the gradients of inputs and of weights). Its memory
    traffic is counted as that of unfused layers, each reading its input and writing its output once a pass. A compiled
    step needs less, so its share can be above 1.
    """
    device, dtype = args.device, torch.bfloat16 if args.bf16 else torch.float32
    matmul, bandwidth = measure_matmul(device, dtype), measure_bandwidth(device)
    flops, moved = cost_of_image(model.to(device), image_size, device, dtype)
    return {
        "matmul_tflops": matmul / 1e12,
        "matmul_share": 3 * flops * images_per_second / matmul,
        "bandwidth_gb_per_second": bandwidth / 1e9,
        "bandwidth_share": 3 * moved * images_per_second / bandwidth,
    }


def measure_matmul(device, dtype, size=8192, repeats=20):
    """Return the floating-point operations a second of a large square matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _seconds(lambda: a @ b, device, repeats)


def measure_bandwidth(device, size=2**31, repeats=20):
    """Return the bytes a second that a copy within the device's memory reads and writes."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _seconds(lambda: target.copy_(source), device, repeats)


def _seconds(work, device, repeats):
    def repeat(times):
        for _ in range(times):
            work()

    repeat(1)
    return time_steps(repeat, repeats, device) / repeats


@torch.no_grad()
def cost_of_image(model, image_size, device, dtype):
    """Return the floating-point operations of one forward pass, and the bytes that its layers read and write."""
    moved = 0

    def count(module, inputs, output):
        nonlocal moved
        if not list(module.children()) and not isinstance(module, (torch.nn.Identity, torch.nn.Dropout)):
            moved += (inputs[0].numel() + output.numel()) * dtype.itemsize

    with register_module_forward_hook(count), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    return counter.get_total_flops(), moved
