"""The device to compute on, and the memory format and precision that suit it and the model."""

import ctypes
import os
import sys
from contextlib import suppress
from importlib.util import find_spec

import torch

# In channels_last, PyTorch's oneDNN corrupts the heap on CPUs with AMX in the backward pass of a 1x1 convolution with
# stride 2 from 8 to 12 channels (torch 2.11 to 2.14). With 16 channels or more no failure was seen.
LEAST_CHANNELS = 16
# A CPU with one of these trains faster in bf16 than in fp32; without them it is 15 times as slow. Intel Xeon with AMX:
# ResNet-50 2.6 times as fast, ResNet-18 2.2, ResNet-20 1.5 to 1.8. AMD EPYC of the fourth generation, with AVX-512's
# bf16: ResNet-50 1.8 times, ResNet-18 1.95, ResNet-20 1.75, the quickstart's network 1.4.
BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
MIN_BF16_WIDTH = 16  # channels; narrower networks gain little (1.17 times with 8), and were not measured with AMX
RUNS_AT_ONCE = "HF_CIFAR_RESNET_RUNS_AT_ONCE"  # environment variable that a study sets
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def device_for(use_cpu=False):
    """Return the device that Accelerate picks in a single process: a GPU (also Apple's), else the CPU."""
    accelerator = None if use_cpu else torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def count_cores():
    """Return the number of cores that this process can use, which a batch system may limit and a study may divide."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get(RUNS_AT_ONCE, 1)))


def keep_freed_memory():
    """
    Let glibc keep the memory that this process frees, so that a training step gets that of the step before. Otherwise
    most of it may go back to the system: a step of ResNet-20 with 128 images then has 27,000 page faults or more, 8 to
    24% of its time on a CPU.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_THRESHOLD, 2**30)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def skip_missing_lomo():
    """Spare Accelerate two searches for the package of LOMO's optimizers at every optimizer step, if it is missing."""
    if find_spec("lomo_optim") is None:
        sys.modules["lomo_optim"] = None  # which Python takes for a module that cannot be imported


def memory_format_for(model, device):
    """Return channels_last, which is faster, for a model's weights and images, unless PyTorch may crash in it."""
    _, *convolutions = (module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    narrow = any(convolution.in_channels < LEAST_CHANNELS for convolution in convolutions)
    return torch.contiguous_format if narrow and _has(device, "amx_tile") else torch.channels_last


def is_faster_in_bf16(model, device):
    """Return whether the device is a CPU that computes in bf16, and the model wide enough to gain by it."""
    is_wide = min(model.config.stage_widths) >= MIN_BF16_WIDTH
    return is_wide and any(_has(device, instructions) for instructions in BF16_INSTRUCTIONS)


def _has(device, instructions):
    return device.type == "cpu" and torch.cpu.get_capabilities().get(instructions, False)
