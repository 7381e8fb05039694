"""Several processes, really started."""

import itertools
import json
import runpy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from hf_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification
from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.data.dataset import normalize
from hf_cifar_resnet.documents import read_json

from .conftest import TWO_PROCESSES

pytestmark = pytest.mark.slow
# Port 0 and --standalone: any port that is free.
ACCELERATE = ("-m", "accelerate.commands.launch", "--main_process_port", "0")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
# One by a formula of steps, one that moves the momentum too, one by events.
SCHEDULES = ("cosine_with_warmup", "one_cycle", "reduce_lr_on_plateau")

# Images, and batches to accumulate: the only step has fewer images than the batches of two processes, 16 in all. In the
# last two, the second process has none of its own in its last batch.
UNEVEN = ((10, 1), (10, 2), (3, 1))
# Two epochs with each schedule; every process writes the images of each of its batches, its learning rates, and what it
# would draw from before each step. Then a single step for each of the uneven numbers of images.
BATCHES = """
import hashlib, json, sys
import numpy as np, torch
from safetensors.torch import save_file
from torchvision.ops import stochastic_depth
from hf_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification, CifarTrainer, CifarTrainingArguments
from hf_cifar_resnet.data.policies import Augmenter
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
        with torch.random.fork_rng():
            drawn["dropout"].append(torch.nn.functional.dropout(torch.ones(32)).tolist())
            drawn["drop_path"].append(stochastic_depth(torch.ones(32, 1), 0.5, "row").flatten().tolist())
        return super().training_step(model, inputs, num_items_in_batch)

images, labels = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8), np.arange(50) % 5
scale = [0.5] * 3, [0.25] * 3
train = WithPositions(images, labels, *scale, Augmenter(build_policy("crop_flip_jitter"), 42))
shape = dict(block="basic", stage_depths=[1, 1], stage_widths=[16, 32], num_labels=5)
dropping = dict(dropout=0.5, drop_path_rate=0.5)
# Nothing is improvement enough, so that the plateau is cut alike whatever the figures.
plateau = {"patience": 0, "threshold": 0.9}
found = {}
for schedule in sys.argv[3:]:
    batches, drawn = [], {"dropout": [], "drop_path": []}
    args = CifarTrainingArguments(output_dir=sys.argv[1], use_cpu=True, bf16=False, global_batch_size=16,
                                  num_train_epochs=2,
                                  lr_scheduler_type=schedule, logging_strategy="steps", logging_steps=1,
                                  lr_scheduler_kwargs=plateau if "plateau" in schedule else {},
                                  eval_strategy="steps", eval_steps=2, save_strategy="no",
                                  load_best_model_at_end=False, metric_for_best_model="loss")
    model = CifarResNetForImageClassification(CifarResNetConfig(**shape, **dropping))
    trainer = Noting(model, args, train_dataset=train, eval_dataset=ImageDataset(images, labels, *scale))
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    weights = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
    found[schedule] = {"processes": args.world_size, "batches": batches, "rates": rates, "drawn": drawn,
                       "weights": weights, "images": trainer.train_metrics.images_in_all}
for count, accumulation in json.loads(sys.argv[2]):
    batches, drawn = [], {"dropout": [], "drop_path": []}
    args = CifarTrainingArguments(output_dir=sys.argv[1], use_cpu=True, bf16=False, global_batch_size=16, max_steps=1,
                                  gradient_accumulation_steps=accumulation, lr_scheduler_type="constant", optim="sgd",
                                  learning_rate=0.1, weight_decay=0, max_grad_norm=0, logging_steps=1,
                                  logging_strategy="steps", eval_strategy="no", save_strategy="no",
                                  load_best_model_at_end=False)
    torch.manual_seed(0)
    model = CifarResNetForImageClassification(CifarResNetConfig(**shape))
    trainer = Noting(model, args, train_dataset=WithPositions(images[:count], labels[:count], *scale))
    trainer.train()
    [loss] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    found[f"{count} images, {accumulation}"] = {"loss": loss, "batches": batches}
    if args.process_index == 0:
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, f"{sys.argv[1]}/{count}-{accumulation}.safetensors")
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
    assert "; 16 repeated images fill up the last step of an epoch, and do not count" in output  # of 400
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
        patch.setattr("sys.argv", [str(program), str(folder / "1"), "[]", *SCHEDULES])
        runpy.run_path(str(program))
    result = python(*TORCHRUN, 2, program, folder / "2", json.dumps(UNEVEN), *SCHEDULES, cwd=folder)
    assert result.returncode == 0, result.stderr
    names = {1: ["1/found-0.json"], 2: ["2/found-0.json", "2/found-1.json"]}
    found = {number: [json.loads((folder / name).read_text()) for name in names[number]] for number in names}
    return found | {"folder": folder / "2"}


def test_scores_do_not_depend_on_the_number_of_processes(two, tmp_path):
    """Those of the run, which was scored in two, are those in one."""
    cli(["evaluate", str(two[0]), "--use_cpu", "--batch_size", "16", "--json", str(tmp_path / "scores.json")])
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
    # 50 images, which two epochs augment differently.
    assert {position for position, _ in everything} == set(range(50)) and len(everything) == 100
    for expected, *shares in zip(one[0]["batches"], *(process["batches"] for process in many), strict=True):
        expected, share = {tuple(sample) for sample in expected}, {tuple(sample) for part in shares for sample in part}
        # The last step of an epoch, of 2 images, is filled up with others of the epoch.
        assert share == expected if len(expected) == 16 else expected <= share <= everything


def test_each_image_counts_once_an_epoch(found):
    """In two epochs of 50 images, in batches of 16."""
    for process in (*found[1], *found[2]):
        assert [process[schedule]["images"] for schedule in SCHEDULES] == [100] * len(SCHEDULES)


@pytest.mark.parametrize("count, accumulation", UNEVEN)
def test_step_of_two_processes_is_the_mean_over_its_images(found, count, accumulation):
    processes = [process[f"{count} images, {accumulation}"] for process in found[2]]
    images = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    torch.manual_seed(0)
    shape = {"block": "basic", "stage_depths": [1, 1], "stage_widths": [16, 32], "num_labels": 5}
    reference = CifarResNetForImageClassification(CifarResNetConfig(**shape)).train()
    loss, seen = 0, set()
    for batch in itertools.chain(*zip(*(process["batches"] for process in processes), strict=True)):
        positions = [position for position, _ in batch]
        logits = reference(normalize(images[positions], [0.5] * 3, [0.25] * 3)).logits
        for row, position in enumerate(positions):
            if position not in seen:
                seen.add(position)
                loss += cross_entropy(logits[row], torch.tensor(position % 5), label_smoothing=0.1) / count
    assert seen == set(range(count))
    loss.backward()
    trained = load_file(found["folder"] / f"{count}-{accumulation}.safetensors")
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(trained[name], parameter - 0.1 * parameter.grad, rtol=1e-4, atol=1e-6)
    assert [process["loss"] for process in processes] == pytest.approx([loss.item()] * 2, rel=1e-5)


@pytest.mark.parametrize("method", ["dropout", "drop_path"])
def test_each_process_draws_its_own(found, method):
    for schedule in SCHEDULES:
        first, second = (process[schedule]["drawn"][method] for process in found[2])
        assert len(first) == 8 and not any(a == b for a, b in zip(first, second, strict=True))
        assert len(set(map(str, first + second))) == 16


def test_processes_keep_the_same_weights(found):
    for schedule in SCHEDULES:
        assert len({process[schedule]["weights"] for process in found[2]}) == 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_process_follows_the_learning_rates_of_one(found, schedule):
    [one], many = found[1], found[2]
    # Four steps in each of two epochs.
    assert len(one[schedule]["rates"]) == 8 and len(set(one[schedule]["rates"])) > 1
    for process in many:
        assert process[schedule]["rates"] == one[schedule]["rates"]
