"""What a Trainer does on one CPU and on another."""

import platform
import sys

import numpy as np
import pytest
import torch
from trainer_fixtures import MEAN, STD, at

from hf_cifar_resnet.data.dataset import ImageDataset
from hf_cifar_resnet.device import device_for, tune_process

AMX = ("amx_tile", "amx_bf16")
# Without a convolution of 1x1, which alone crashes a real CPU with AMX in channels_last.
NARROW = {"stage_depths": [1], "stage_widths": [8]}


def formats_seen(trainer):
    """The memory formats of all images and gradients that come to a convolution, and of the weights."""
    seen = set()

    def note(*tensors):
        for tensor in tensors:
            if tensor is not None and min(tensor.shape[1:]) > 1:  # else it is both
                seen.add("channels_last" if tensor.is_contiguous(memory_format=torch.channels_last) else "contiguous")

    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: note(module.weight, *inputs, output))
            module.register_full_backward_hook(lambda module, inputs, outputs: note(*inputs, *outputs))
    trainer.train()
    trainer.evaluate()
    return seen


@pytest.mark.parametrize(
    "widths, options, expected",
    [([8, 16], {"cutmix_alpha": 1.0}, {"contiguous"}), ([16, 32], {"mixup_alpha": 1.0}, {"channels_last"})],
)
def test_one_memory_format_throughout(cpu_with, make_trainer, make_model, widths, options, expected):
    cpu_with(*AMX)
    assert formats_seen(make_trainer(model=make_model(stage_widths=widths), max_steps=2, **options)) == expected


def test_compiling_what_would_crash_is_refused(cpu_with, make_trainer, make_model):
    cpu_with(*AMX)
    with pytest.raises(ValueError, match=r"torch_compile .* \(AMX\) .* stage_widths"):
        make_trainer(model=make_model(stage_widths=[8, 16]), torch_compile=True)


def test_run_resumes_in_another_memory_format(cpu_with, make_trainer, make_model):
    """A fused optimizer would pair weights and moments of different channels, and say nothing."""
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "optim": "adamw_torch_fused"}
    ends = {}
    for instructions in (AMX, ()):
        cpu_with(*AMX)
        make_trainer(model=make_model(**NARROW), **saving).train()
        cpu_with(*instructions)
        trainer = make_trainer(model=make_model(**NARROW), **saving)
        trainer.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-2")
        ends[instructions] = trainer.model
    assert ends[()].resnet.backbone.conv1.weight.stride() != ends[AMX].resnet.backbone.conv1.weight.stride()
    for ours, theirs in zip(ends[AMX].parameters(), ends[()].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


# Precision


@pytest.mark.skipif(device_for().type != "cpu", reason="there is a GPU")
def test_bf16_needs_no_word_about_the_cpu(make_trainer, make_model):
    trainer = make_trainer(model=make_model(), use_cpu=False, bf16=True, max_steps=1)
    assert precisions_computed_in(trainer) == {torch.bfloat16}


@pytest.mark.parametrize(
    "instructions, width, options, precision",
    [
        (AMX, 16, {"bf16": None}, "bf16"),
        (["avx512_bf16"], 16, {"bf16": None}, "bf16"),
        (AMX, 64, {"bf16": False}, "fp32"),
        (["avx512_bf16"], 8, {"bf16": None}, "fp32"),
        (["avx512_f"], 64, {"bf16": None}, "fp32"),
    ],
)
def test_precision_follows_cpu_and_model(cpu_with, make_trainer, make_model, instructions, width, options, precision):
    cpu_with(*instructions)
    trainer = make_trainer(model=make_model(stage_depths=[1], stage_widths=[width]), max_steps=1, **options)
    assert trainer.args.precision == precision
    assert precisions_computed_in(trainer) == {torch.bfloat16 if precision == "bf16" else torch.float32}


def test_arguments_stay_as_they_were_given(cpu_with, make_args, make_model):
    cpu_with(*AMX)
    args = make_args(bf16=None)
    suited = args.with_precision_for(make_model(stage_widths=[64, 64]))
    assert (args.precision, args.bf16, suited.precision, suited.bf16) == ("fp32", False, "bf16", True)


def precisions_computed_in(trainer):
    seen = set()
    layer = trainer.model.resnet.backbone.conv1
    layer.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    trainer.train()
    return seen


# Memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be asked to keep memory")
def test_steps_reuse_memory(make_trainer):
    """Otherwise a training step asks the system for all of its memory again."""
    import resource

    tune_process(torch.device("cpu"))
    faults = []
    images = np.zeros((1024, 32, 32, 3), dtype=np.uint8)
    dataset = ImageDataset(images, np.zeros(1024, dtype=np.int64), MEAN, STD)
    counting = at("on_step_end", lambda args, state: faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt))
    make_trainer(train=dataset, global_batch_size=128, max_steps=8, callbacks=[counting]).train()
    assert np.median(np.diff(faults)) < 1000


def test_steps_search_for_no_packages(make_trainer, monkeypatch):
    """Accelerate would look for a missing optimizer package at every step."""
    names = []

    class Searches:
        @staticmethod
        def find_spec(name, path=None, target=None):
            names.append(name)

    monkeypatch.delitem(sys.modules, "lomo_optim", raising=False)
    tune_process(torch.device("cpu"))
    trainer = make_trainer(max_steps=6)
    monkeypatch.setattr(sys, "meta_path", [Searches, *sys.meta_path])
    trainer.train()
    assert [name for name in set(names) if names.count(name) >= 6] == []
