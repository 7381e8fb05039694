"""What is chosen for a device and a model, whatever machine this is."""

import pytest
import torch
from accelerate import PartialState

from hf_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification
from hf_cifar_resnet.device import RUNS_AT_ONCE, count_cores, device_for, memory_format_for

AMX = ("amx_tile", "amx_bf16", "avx512_f")
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def model(**shape):
    if "depth" not in shape:
        shape = {"block": "basic", "stage_depths": [1] * len(shape["stage_widths"])} | shape
    with torch.device("meta"):
        return CifarResNetForImageClassification(CifarResNetConfig(**shape))


def test_device_is_the_one_that_accelerate_picks():
    assert device_for() == PartialState().default_device
    assert device_for(use_cpu=True) == CPU


@pytest.mark.parametrize(
    "device, instructions, shape, chosen",
    [
        (CPU, AMX, {"stage_widths": [8, 16]}, torch.contiguous_format),
        (CPU, AMX, {"stage_widths": [8, 16], "block": "bottleneck"}, torch.contiguous_format),
        (CPU, AMX, {"stage_widths": [16, 8]}, torch.contiguous_format),
        (CPU, AMX, {"stage_widths": [16, 32]}, torch.channels_last),
        (CPU, AMX, {"depth": 18, "stem": "imagenet"}, torch.channels_last),
        (CPU, ["avx512_f"], {"stage_widths": [8, 16]}, torch.channels_last),
        (GPU, AMX, {"stage_widths": [8, 16]}, torch.channels_last),
    ],
)
def test_memory_format(cpu_with, device, instructions, shape, chosen):
    cpu_with(*instructions)
    assert memory_format_for(model(**shape), device) == chosen


def test_runs_at_once_share_the_cores(monkeypatch):
    cores = count_cores()
    monkeypatch.setenv(RUNS_AT_ONCE, "2")
    assert count_cores() == max(1, cores // 2)
    monkeypatch.setenv(RUNS_AT_ONCE, "1000")
    assert count_cores() == 1
