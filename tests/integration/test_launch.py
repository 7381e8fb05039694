"""Several processes, really started."""

import json

import pytest
import torch

from hf_cifar_resnet.reporting.records import read_history, read_json

LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node")
EVALUATE = "import sys; from hf_cifar_resnet.cli import main; main(sys.argv[1:])"

BATCHES = """
import hashlib, json, sys
import numpy as np
from hf_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification, CifarTrainer, CifarTrainingArguments
from hf_cifar_resnet.data.augment import Augmenter, build_policy
from hf_cifar_resnet import ImageDataset

class Noted(ImageDataset):
    def __getitems__(self, positions):
        batch = super().__getitems__(positions)
        for position, pixels in zip(positions, batch["pixel_values"]):
            seen.append((int(position), hashlib.sha256(pixels.numpy().tobytes()).hexdigest()))
        return batch

seen = []
images = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
data = Noted(images, np.arange(50) % 5, [0.5] * 3, [0.25] * 3, Augmenter(build_policy("seed"), 42))
shape = dict(block="basic", stage_depths=[1, 1], stage_widths=[8, 16], num_labels=5)
args = CifarTrainingArguments(output_dir=sys.argv[1], use_cpu=True, global_batch_size=16, num_train_epochs=2,
                              eval_strategy="no", save_strategy="no", load_best_model_at_end=False)
trainer = CifarTrainer(CifarResNetForImageClassification(CifarResNetConfig(**shape)), args, train_dataset=data)
trainer.train()
with open(f"{sys.argv[1]}/seen-{args.process_index}.json", "w") as file:
    json.dump([args.world_size, seen], file)
"""


@pytest.fixture(scope="module")
def two(python, script, quick, tmp_path_factory):
    """A run in two processes by `accelerate launch`, and what it printed."""
    folder = tmp_path_factory.mktemp("two") / "run"
    # 203 does not divide by two processes or any batch.
    arguments = [*quick, "--max_eval_samples", "203", "--logging_strategy", "steps", "--logging_steps", "1"]
    result = python(*LAUNCH, script, *arguments, "--output_dir", folder, cwd=script.parent)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_two_processes_are_two(two):
    folder, output = two
    assert "2 processes" in output and "global batch 32 (processes x per device x accumulation: 2 x 16 x 1)" in output
    assert read_json(folder / "run.json")["processes"] == 2
    assert output.count("Dataset ") == output.count("Saved ") == 1


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_scores_do_not_depend_on_the_number_of_processes(python, two, tmp_path, processes):
    program = tmp_path / "evaluate.py"
    program.write_text(EVALUATE)
    launcher = [] if processes == 1 else [*TORCHRUN, str(processes)]
    options = ["--use_cpu", "--batch_size", "16", "--json", tmp_path / "scores.json"]
    result = python(*launcher, program, "evaluate", two[0], *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    expected, found = read_json(two[0] / "metrics.json")["test"], read_json(tmp_path / "scores.json")
    for name in ("top1", "top5", "superclass"):
        assert round(found[name] * 203) == round(expected[name] * 203) == pytest.approx(found[name] * 203)
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)


def test_each_augmented_sample_is_the_same_in_one_process_and_in_two(python, tmp_path):
    program = tmp_path / "batches.py"
    program.write_text(BATCHES)
    seen = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        launcher = [] if processes == 1 else [*TORCHRUN, "2"]
        result = python(*launcher, program, folder, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        records = [json.loads(path.read_text()) for path in sorted(folder.glob("seen-*.json"))]
        assert [world_size for world_size, _ in records] == [processes] * processes
        seen[processes] = {tuple(sample) for _, samples in records for sample in samples}
    # Positions 0 to 99 are two epochs of 50 images.
    assert {position for position, _ in seen[1]} == set(range(100))
    assert seen[2] == seen[1]


def test_learning_rates_are_those_of_one_process(python, script, quick, two, tmp_path):
    folder = tmp_path / "one"
    arguments = [*quick, "--max_eval_samples", "203", "--logging_strategy", "steps", "--logging_steps", "1"]
    assert python(script, *arguments, "--output_dir", folder, cwd=tmp_path).returncode == 0
    rates = [[row["learning_rate"] for row in read_history(place / "history.csv")] for place in (folder, two[0])]
    assert rates[0] == rates[1] and len(set(rates[0])) == 6


@pytest.mark.parametrize(
    "options, message",
    [
        (["--multi_gpu", "--num_processes", "2"], "they do not work together"),
        (["--cpu", "--num_processes", "2"], "asked for several processes but started one"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="these are mistakes on a CPU alone")
def test_processes_that_do_not_work_together_are_refused(python, script, quick, tmp_path, options, message):
    arguments = [argument for argument in quick if argument != "--use_cpu"]
    launcher = ["-m", "accelerate.commands.launch", *options, script]
    result = python(*launcher, *arguments, "--output_dir", tmp_path / "run", cwd=tmp_path)
    assert result.returncode != 0
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ") and message in line]
    assert not (tmp_path / "run").exists()
