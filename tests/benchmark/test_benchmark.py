"""Every kind of benchmark, run for a moment: the tests judge what it does, not the speeds."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hf_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification, CifarTrainer, load_splits
from hf_cifar_resnet.benchmark import input, step
from hf_cifar_resnet.commands.benchmark import main
from hf_cifar_resnet.data.arguments import DataArguments
from hf_cifar_resnet.training.arguments import CifarTrainingArguments

TINY = "--use_cpu --bf16 false --block basic --stage_depths 1 1 --stage_widths 16 32 --max_train_samples 200"


@pytest.fixture
def run(tmp_path, capsys):
    """Runs a benchmark; returns its JSON and its printed lines."""

    def measure(kind, options):
        file = tmp_path / "figures.json"
        main([kind, *TINY.split(), *options.split(), "--json", str(file)])
        return json.loads(file.read_text()), capsys.readouterr().out

    return measure


def test_input(run):
    figures, shown = run("input", "--repeats 1")
    assert set(figures["rates"]) == {input.OURS, "ours, bytes", input.NOTEBOOK, input.OFFICIAL, input.MEMORY}
    assert all(rate["median"] > 0 and rate["n"] == 1 for rate in figures["rates"].values())
    assert all(name in shown for name in figures["rates"])
    assert set(figures["ratios"]) == {input.OFFICIAL, input.NOTEBOOK}
    assert figures["hardware"] and figures["torch"] == torch.__version__


def test_candidates_that_read_images_give_the_same_pixels():
    """Up to rounding, where nothing is random."""
    args = DataArguments(dataset_name="shapes100", max_train_samples=100, color_jitter=[0, 0, 0, 0])
    means = {}
    for name, batches in input.make_candidates(args, batch_size=100).items():
        batch = next(iter(batches.loader))
        assert sorted(np.asarray(batch["labels"]).tolist()) == list(range(100))
        means[name] = batch["pixel_values"].float().mean().item()
    # All but the memory pass have black borders, and the bytes are not normalised.
    normalised = [means[name] for name in (input.OURS, input.NOTEBOOK, input.OFFICIAL)]
    assert max(normalised) - min(normalised) < 0.1 and abs(means[input.MEMORY]) < 1e-3


def test_images_of_other_sizes_and_modes(tmp_path, write_image_folder):
    counts = {"train": {"ant": 4, "bee": 4}, "test": {"ant": 2, "bee": 2}}
    write_image_folder(counts, lambda: Image.new("L", (40, 30), 100))
    candidates = input.make_candidates(DataArguments(dataset_name=str(tmp_path)), batch_size=4)
    assert all(work() == 4 for work in candidates.values())


def test_step(run):
    figures, shown = run("step", "--repeats 2 --steps 2 --batch_sizes 4 --profile --precisions fp32 bf16")
    found = figures["batch_sizes"]["4"]
    assert set(found["rates"]) == {step.OURS, step.STOCK, step.BARE, step.SYNTHETIC, "bare loop, bf16"}
    assert all(rate["n"] == 2 and rate["median"] > 0 for rate in found["rates"].values())
    assert found["ratios"][step.BARE]["bare loop, bf16"]["median"] > 0
    assert found["ratios"][step.BARE][step.STOCK]["n"] == found["ratios"][step.STOCK][step.OURS]["n"] == 2
    assert 0 <= found["data_wait"] < 1 and "convolution" in found["profile"]
    assert "waited for data" in shown and "bare loop, bf16" in shown


def test_all_loops_make_the_same_step(tmp_path):
    """Otherwise comparing their speed would say nothing."""
    torch.manual_seed(0)
    data = load_splits("shapes100", max_train_samples=64)
    shape = {"block": "basic", "stage_depths": [1, 1], "stage_widths": [16, 32], "num_labels": 100}
    models = [CifarResNetForImageClassification(CifarResNetConfig(**shape)) for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    args = CifarTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, max_steps=1, global_batch_size=16, weight_decay=0.1,
        eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
    )  # fmt: skip
    trainer = CifarTrainer(model=models[0], args=args, train_dataset=data.train, eval_dataset=data.test)
    trainer.train()
    step.BareLoop(models[1], args, step.endless_batches(data.train, args)).train(1)
    stock = step.StockLoop(models[2], args, data.train, settle=0)
    stock.trainer.args.max_steps = 1
    stock.trainer.train()
    for ours, bare, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, bare, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other, bare, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "argument, instead",
    [
        ("mixup_alpha 0.2", "use 0.0"),
        ("cutmix_alpha 1.0", "use 0.0"),
        ("ema_decay 0.9", "use 0.0"),
        ("gradient_accumulation_steps 2", "use 1"),
        ("auto_find_batch_size True", "use False"),
        ("optim sgd", "use adamw_torch_fused"),
        ("optim schedule_free_adamw", "use adamw_torch_fused"),
    ],
)
def test_what_acts_on_our_trainer_alone_is_refused(refused, argument, instead):
    """Also if a recipe asks for it."""
    name, value = argument.split()
    options = f"--repeats 1 --steps 1 --{name} {value} --lr_scheduler_type constant".split()
    line = refused("benchmark", "step", *TINY.split(), *options)
    assert f"--{name} {value} acts on our Trainer alone" in line and line.endswith(instead)


def test_recipe_with_what_acts_on_our_trainer_alone(refused):
    line = refused("benchmark", "step", "--config", "strong", "--dataset_name", "shapes100", "--use_cpu")
    assert "--mixup_alpha 0.2 acts on our Trainer alone" in line


def test_inference(run):
    figures, shown = run("inference", "--repeats 1 --runtimes eager channels_last --batch_sizes 1 3")
    assert set(figures["batch_sizes"]) == {"1", "3"}
    assert all(set(found["rates"]) == {"eager", "channels_last"} for found in figures["batch_sizes"].values())
    assert "batch 3" in shown


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["lunch"], "invalid choice"),
        (["input", "--repeats", "0"], "--repeats: must be at least 1, got 0"),
        (["step", "--use_cpu", "--batch_sizes", "100000"], "--batch_sizes must be at most"),
        (["step", "--use_cpu", "--steps", "1000000000"], "steps must be at most 100,000, got 1,000,000,000"),
        (["input", "--json", "/nowhere/x.json"], "--json /nowhere/x.json cannot be written"),
    ],
)
def test_bad_arguments(refused, arguments, message):
    assert message in refused("benchmark", *arguments)
