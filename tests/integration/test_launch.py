"""Several processes, really started."""

import json
import runpy

import pytest
import torch

from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.documents import read_json

from .conftest import TWO_PROCESSES

pytestmark = pytest.mark.slow
# Port 0 and --standalone: any port that is free.
ACCELERATE = ("-m", "accelerate.commands.launch", "--main_process_port", "0")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
# One by a formula of steps, one that moves the momentum too, one by events.
SCHEDULES = ("cosine_with_warmup", "one_cycle", "reduce_lr_on_plateau")
EVALUATE = "import sys; from hf_cifar_resnet.cli import main; main(sys.argv[1:])"

# Two epochs with each schedule; every process writes the images of each of its batches, and its learning rates.
BATCHES = """
import hashlib, json, sys
import numpy as np, torch
from hf_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification, CifarTrainer, CifarTrainingArguments
from hf_cifar_resnet.data.augment import Augmenter
from hf_cifar_resnet.data.policies import build_policy
from hf_cifar_resnet import ImageDataset
from hf_cifar_resnet.processes import destroy_process_group_at_exit

class WithPositions(ImageDataset):
    def __getitems__(self, positions):
        return super().__getitems__(positions) | {"positions": torch.as_tensor(positions)}

class Noting(CifarTrainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        hashes = [hashlib.sha256(pixels.numpy().tobytes()).hexdigest() for pixels in inputs["pixel_values"]]
        batches.append(list(zip(inputs.pop("positions").tolist(), hashes)))
        return super().training_step(model, inputs, num_items_in_batch)

images, labels = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8), np.arange(50) % 5
scale = [0.5] * 3, [0.25] * 3
train = WithPositions(images, labels, *scale, Augmenter(build_policy("crop_flip_jitter"), 42))
shape = dict(block="basic", stage_depths=[1, 1], stage_widths=[16, 32], num_labels=5)
# Nothing is improvement enough, so that the plateau is cut alike whatever the figures.
plateau = {"patience": 0, "threshold": 0.9}
found = {}
for schedule in sys.argv[2:]:
    batches = []
    args = CifarTrainingArguments(output_dir=sys.argv[1], use_cpu=True, global_batch_size=16, num_train_epochs=2,
                                  lr_scheduler_type=schedule, logging_strategy="steps", logging_steps=1,
                                  lr_scheduler_kwargs=plateau if "plateau" in schedule else {},
                                  eval_strategy="steps", eval_steps=2, save_strategy="no",
                                  load_best_model_at_end=False, metric_for_best_model="loss")
    model = CifarResNetForImageClassification(CifarResNetConfig(**shape))
    trainer = Noting(model, args, train_dataset=train, eval_dataset=ImageDataset(images, labels, *scale))
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    found[schedule] = {"processes": args.world_size, "batches": batches, "rates": rates}
with open(f"{sys.argv[1]}/found-{args.process_index}.json", "w") as file:
    json.dump(found, file)
del model, trainer
destroy_process_group_at_exit()
"""


@pytest.fixture(scope="module")
def two(python, script, quick, tmp_path_factory):
    """A run in two processes by the README's command, and what it printed."""
    folder = tmp_path_factory.mktemp("two") / "run"
    # 203 does not divide by two processes or any batch.
    arguments = [*quick, "--max_eval_samples", "203", "--ema_decay", "0.9", "--cutmix_alpha", "1"]
    command = TWO_PROCESSES.removeprefix("accelerate launch").split()
    result = python(*ACCELERATE, *command, *arguments, "--output_dir", folder, cwd=script.parent)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_two_processes_are_two(two):
    folder, output = two
    assert "2 processes" in output and "global batch 32 (processes x per device x accumulation: 2 x 16 x 1)" in output
    assert read_json(folder / "run.json")["processes"] == 2
    assert output.count("Dataset ") == output.count("Saved ") == 1


@pytest.fixture(scope="module")
def found(python, tmp_path_factory):
    """What every process of one and of two wrote, by their number."""
    folder = tmp_path_factory.mktemp("found")
    program = folder / "batches.py"
    program.write_text(BATCHES)
    for processes in (1, 2):
        (folder / str(processes)).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [str(program), str(folder / "1"), *SCHEDULES])
        runpy.run_path(str(program))
    result = python(*TORCHRUN, 2, program, folder / "2", *SCHEDULES, cwd=folder)
    assert result.returncode == 0, result.stderr
    names = {1: ["1/found-0.json"], 2: ["2/found-0.json", "2/found-1.json"]}
    return {number: [json.loads((folder / name).read_text()) for name in names[number]] for number in names}


@pytest.mark.parametrize("processes", [1, 3])
def test_scores_do_not_depend_on_the_number_of_processes(python, two, tmp_path, processes):
    """They are those of the run, which was scored in two."""
    arguments = ["evaluate", str(two[0]), "--use_cpu", "--batch_size", "16", "--json", str(tmp_path / "scores.json")]
    if processes == 1:
        cli(arguments)
    else:
        program = tmp_path / "score.py"
        program.write_text(EVALUATE)
        result = python(*TORCHRUN, processes, program, *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    expected, found = read_json(two[0] / "metrics.json")["test"], read_json(tmp_path / "scores.json")
    for name in ("top1", "top5", "superclass"):
        assert round(found[name] * 203) == round(expected[name] * 203) == pytest.approx(found[name] * 203)
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)


def test_saved_averages_are_those_that_both_processes_evaluated(two, tmp_path):
    arguments = ["--split", "validation", "--use_cpu", "--json", str(tmp_path / "scores.json")]
    cli(["evaluate", str(two[0]), *arguments])
    expected, found = read_json(two[0] / "metrics.json")["validation"], read_json(tmp_path / "scores.json")
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    [checkpoint] = two[0].glob("checkpoint-*")
    assert (checkpoint / "ema.safetensors").read_bytes() != (checkpoint / "model.safetensors").read_bytes()


def test_each_augmented_sample_is_the_same_in_one_process_and_in_two(found):
    """Each step has the same images, pixel for pixel, in whichever process."""
    one, many = ([process[SCHEDULES[0]] for process in found[processes]] for processes in (1, 2))
    assert [process["processes"] for process in many] == [2, 2]
    everything = {tuple(sample) for batch in one[0]["batches"] for sample in batch}
    # Positions 0 to 99 are two epochs of 50 images.
    assert {position for position, _ in everything} == set(range(100)) and len(everything) == 100
    for expected, *shares in zip(one[0]["batches"], *(process["batches"] for process in many), strict=True):
        expected, share = {tuple(sample) for sample in expected}, {tuple(sample) for part in shares for sample in part}
        # The last step of an epoch, of 2 images, is filled up with others of the epoch.
        assert share == expected if len(expected) == 16 else expected <= share <= everything


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_process_follows_the_learning_rates_of_one(found, schedule):
    [one], many = found[1], found[2]
    # Four steps in each of two epochs.
    assert len(one[schedule]["rates"]) == 8 and len(set(one[schedule]["rates"])) > 1
    for process in many:
        assert process[schedule]["rates"] == one[schedule]["rates"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="not tested: mistaken launches on a CPU, since there is a GPU")
def test_processes_that_do_not_work_together_are_refused(python, script, quick, tmp_path):
    arguments = [argument for argument in quick if argument != "--use_cpu"]
    launch = [*ACCELERATE, "--multi_gpu", "--num_processes", "2", script]
    result = python(*launch, *arguments, "--output_dir", tmp_path / "run", cwd=tmp_path)
    assert result.returncode != 0
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "they do not work together" in line
    assert not (tmp_path / "run").exists()
