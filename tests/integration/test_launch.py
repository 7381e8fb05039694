import json
import os
import runpy

import pytest
import torch

from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.reporting.records import read_json

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
# Port 0: any that is free.
ACCELERATE = ["-m", "accelerate.commands.launch", "--main_process_port", "0", "--multi_gpu", "--num_processes"]
LAUNCHERS = {2: [*ACCELERATE, "2"], 3: [*TORCHRUN, "3"]}
SCHEDULES = ("cosine_with_warmup", "one_cycle", "reduce_lr_on_plateau")
EVALUATED = 203

# Every process writes which images it trained on, and with which learning rates; then all score a checkpoint together.
WORKER = f"""
import hashlib
import json
import os
import sys

import torch

from hf_cifar_resnet import CifarTrainer, ImageDataset
from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.training.arguments import parse_arguments
from hf_cifar_resnet.training.run import build_model, load_data

OPTIONS = (
    "--config quickstart --use_cpu --num_train_epochs 2 --max_train_samples 100 --max_eval_samples 10 "
    "--global_batch_size 48 --logging_strategy steps --logging_steps 1 --eval_strategy steps --eval_steps 1 "
    "--save_strategy no --load_best_model_at_end false --metric_for_best_model loss "
    # Nothing is ever good enough, so that the rule decides alike whatever the figures.
    "--plateau_patience 0 --plateau_threshold 0.9"
).split()


class WithPositions(ImageDataset):
    def __getitems__(self, positions):
        return super().__getitems__(positions) | {{"positions": torch.as_tensor(positions)}}


class Recorder(CifarTrainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        hashes = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in inputs["pixel_values"]]
        self.batches.append(dict(zip(inputs.pop("positions").tolist(), hashes, strict=True)))
        return super().training_step(model, inputs, num_items_in_batch)


def work(checkpoint, out):
    data, seen = None, {{}}
    for schedule in {SCHEDULES}:
        argv = [*OPTIONS, "--lr_scheduler_type", schedule, "--output_dir", out]
        model_args, data_args, args = parse_arguments(argv)
        data = data or load_data(data_args, args.seed)
        train = WithPositions(data.train.images, data.train.labels, data.mean, data.std, data.train.augmenter)
        trainer = Recorder(build_model(model_args, data), args, train_dataset=train, eval_dataset=data.test)
        trainer.batches = []
        trainer.train()
        rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
        seen[schedule] = {{"processes": args.world_size, "batches": trainer.batches, "rates": rates}}
    with open(os.path.join(out, f"seen-{{args.process_index}}.json"), "w") as file:
        json.dump(seen, file)
    options = ["--use_cpu", "--max_eval_samples", "{EVALUATED}", "--batch_size", "16"]
    cli(["evaluate", checkpoint, *options, "--json", os.path.join(out, "scores.json")])


if __name__ == "__main__":
    work(*sys.argv[1:])
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    path = tmp_path_factory.mktemp("worker") / "worker.py"
    path.write_text(WORKER)
    return path


@pytest.fixture(scope="module")
def alone(worker, finished, tmp_path_factory):
    """The folder with what one process, this one, saw."""
    folder = tmp_path_factory.mktemp("alone")
    runpy.run_path(str(worker))["work"](str(finished.folder), str(folder))
    return folder


@pytest.fixture(scope="module", params=LAUNCHERS, ids=["2 by accelerate", "3 by torchrun"])
def together(request, python, worker, finished, tmp_path_factory):
    """How many processes worked together, and the folder with what each of them saw."""
    folder = tmp_path_factory.mktemp("together")
    result = python(*LAUNCHERS[request.param], worker, finished.folder, folder, cwd=folder)
    assert (folder / "seen-0.json").exists(), result.stderr
    return request.param, folder


def seen(folder, processes, schedule):
    everything = [json.loads((folder / f"seen-{rank}.json").read_text())[schedule] for rank in range(processes)]
    assert [process["processes"] for process in everything] == [processes] * processes
    return everything


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_process_follows_the_learning_rates_of_one(alone, together, schedule):
    [one] = seen(alone, 1, schedule)
    # Three steps of 48, 48 and 4 images in each of two epochs, and no two neighbours alike.
    assert len(one["rates"]) == 6 and len(set(one["rates"])) > 3
    for process in seen(together[1], together[0], schedule):
        assert process["rates"] == one["rates"]


def test_processes_share_the_images_of_one(alone, together):
    """Each step has the same images, pixel for pixel: augmentation and order depend on nothing else."""
    [one], processes = seen(alone, 1, SCHEDULES[0]), seen(together[1], together[0], SCHEDULES[0])
    everything = {position: pixels for batch in one["batches"] for position, pixels in batch.items()}
    assert len(everything) == 200 == len(set(everything.values()))
    for step, expected in enumerate(one["batches"]):
        batches = [process["batches"][step] for process in processes]
        union = {position: pixels for batch in batches for position, pixels in batch.items()}
        # The last step of an epoch is filled up with images of its first.
        padding = {} if len(expected) == 48 else {name: everything[name] for name in union if name not in expected}
        assert union == expected | padding
        assert len(union) == sum(map(len, batches)) or len(expected) < 48
    assert [len(process["batches"]) for process in processes] == [6] * len(processes)


def test_scores_do_not_depend_on_the_processes(alone, together):
    """Of a split that divides evenly neither over batches nor over processes."""
    one, many = read_json(alone / "scores.json"), read_json(together[1] / "scores.json")
    assert many == one | {"loss": pytest.approx(one["loss"], abs=1e-6)}
    assert one["top5"] * EVALUATED == pytest.approx(round(one["top5"] * EVALUATED)) and one["top5"] > 0


def test_accelerate_launch_train(python, script, quick, tmp_path):
    folder = tmp_path / "run"
    result = python(*LAUNCHERS[2], script, *quick, "--output_dir", folder, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines, run = result.stdout.splitlines(), read_json(folder / "run.json")
    # Printed by one process alone.
    assert [line.split()[0] for line in lines[:7] + lines[-3:]] == [
        "Dataset", "Model", "Training", "Schedule", "Precision", "Device", "Output", "Validation", "Test", "Saved"
    ]  # fmt: skip
    assert len(lines) == 11 and "2 x 16 x 1" in lines[2] and "2 processes" in lines[5]
    assert run["processes"] == 2 and run["arguments"]["global_batch_size"] == 32
    for split, expected in ((name, read_json(folder / "metrics.json")[name]) for name in ("validation", "test")):
        cli(["evaluate", str(folder), "--use_cpu", "--split", split, "--json", str(tmp_path / "scores.json")])
        assert read_json(tmp_path / "scores.json") == expected | {"loss": pytest.approx(expected["loss"], abs=1e-6)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU these launches are different ones")
@pytest.mark.parametrize("launcher", [LAUNCHERS[2], [*ACCELERATE[:-2], "--cpu", "--num_processes", "2"]])
def test_processes_that_do_not_find_each_other_are_refused(python, script, quick, tmp_path, launcher):
    result = python(*launcher, script, *(word for word in quick if word != "--use_cpu"), cwd=tmp_path)
    assert result.returncode != 0 and not result.stdout
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "accelerate launch --multi_gpu --num_processes N train.py --use_cpu" in line
    assert os.listdir(tmp_path) == []
