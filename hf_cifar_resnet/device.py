"""The device to compute on, the memory format and precision that suit it and the model, and the terminal."""

import ctypes
import os
import sys
from contextlib import suppress
from importlib.util import find_spec

import torch
from torch import nn
from tqdm.auto import tqdm

# In channels_last, PyTorch's oneDNN corrupts the heap on CPUs with AMX in the backward pass of a 1x1 convolution with
# stride 2 from 8 to 12 channels (torch 2.11 to 2.14). With 16 channels or more no failure was seen.
MIN_CHANNELS = 16
# A CPU with one of these trains faster in bf16 than in fp32; without them it is 15 times as slow. Intel Xeon with AMX:
# ResNet-50 2.6 times as fast, ResNet-18 2.2, ResNet-20 1.5 to 1.8. AMD EPYC of the fourth generation, with AVX-512's
# bf16: ResNet-50 1.8 times, ResNet-18 1.95, ResNet-20 1.75, the quickstart's network 1.4.
BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
MIN_BF16_WIDTH = 16  # channels; narrower networks gain little (1.17 times with 8), and were not measured with AMX
RUNS_AT_ONCE = "HF_CIFAR_RESNET_RUNS_AT_ONCE"  # environment variable that a study sets
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def device_for(use_cpu: bool = False) -> torch.device:
    """Return the device that Accelerate picks in a single process: a GPU (also Apple's), else the CPU."""
    accelerator = None if use_cpu else torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def known_names(device: torch.device) -> list[str]:
    """Return the names of the devices of this type that this machine has: of a GPU also with its number, `cuda:0`."""
    count = 0 if device.type == "cpu" else torch.accelerator.device_count()
    return [device.type, *(f"{device.type}:{number}" for number in range(count))]


def count_cores() -> int:
    """Return the number of cores that this process can use, which a batch system may limit and a study may divide."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get(RUNS_AT_ONCE, 1)))


def tune_process(device: torch.device) -> None:
    """
    Make this process faster at training, for as long as it lives. To be called once, by a program, not by a library.

    - cuDNN searches its fastest algorithm for each shape, unless `torch.backends.cudnn.deterministic` is set.
    - On a CPU, glibc keeps the memory that this process frees, so that a step gets that of the step before. Otherwise
      most of it may go back to the system: a step of ResNet-20 with 128 images then has 27,000 page faults or more, 8
      to 24% of its time.
    - Accelerate does not search twice for the package of LOMO's optimizers at every step, if it is missing.
    """
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.deterministic
    if device.type == "cpu" and sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_THRESHOLD, 2**30)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    if "lomo_optim" not in sys.modules and find_spec("lomo_optim") is None:
        # Python takes None for a module that cannot be imported.
        sys.modules["lomo_optim"] = None  # pyright: ignore[reportArgumentType]


def memory_format_for(model: nn.Module, device: torch.device) -> torch.memory_format:
    """Return channels_last, which is faster, for a model's weights and images, unless PyTorch may crash in it."""
    after_the_first = _convolutions(model)[1:]
    is_narrow = any(convolution.in_channels < MIN_CHANNELS for convolution in after_the_first)
    return torch.contiguous_format if is_narrow and _has(device, "amx_tile") else torch.channels_last


def is_faster_in_bf16(model: nn.Module, device: torch.device) -> bool:
    """Return whether the device is a CPU that computes in bf16, and the model wide enough to gain by it."""
    widths = [convolution.out_channels for convolution in _convolutions(model)]
    is_wide = min(widths, default=0) >= MIN_BF16_WIDTH
    return is_wide and any(_has(device, instructions) for instructions in BF16_INSTRUCTIONS)


def _convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def _has(device: torch.device, instructions: str) -> bool:
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get(instructions, False))


def draw_without_width(bar: tqdm | None) -> None:
    """Let a bar be drawn, as a short one, on a terminal that gives no width, as in some containers: tqdm draws none."""
    width = getattr(bar, "ncols", None)  # a hidden bar has none; tqdm's versions differ in what stands for no width
    if width is not None and width < 1:
        vars(bar).update(ncols=None, nrows=None, dynamic_ncols=False)
