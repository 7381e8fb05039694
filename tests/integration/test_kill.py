"""A real training process, killed at random instants, again and again: `--kills 20` is how often."""

import json
import random
import time

import pytest

from hf_cifar_resnet.documents import TEMPORARY

pytestmark = pytest.mark.slow
LIMIT = 300  # seconds for one process to do anything
# Dropout, MixUp, an average and a schedule by events: all that has a history. A checkpoint at every second step.
ARGUMENTS = (
    "--config quickstart --use_cpu --max_train_samples 200 --max_eval_samples 100 --num_train_epochs 4 "
    '--lr_scheduler_type reduce_lr_on_plateau --lr_scheduler_kwargs {"patience":0} '
    "--dropout 0.2 --mixup_alpha 0.2 --ema_decay 0.9 "
    "--gradient_accumulation_steps 2 --dataloader_num_workers 1 --global_batch_size 32 "
    "--eval_strategy steps --eval_steps 2 --save_strategy steps --save_steps 2 --resume_from_checkpoint auto"
).split()


@pytest.fixture
def train(start, script, tmp_path):
    """Starts training in a folder, where it resumes from what is there."""
    return lambda folder: start(script, *ARGUMENTS, "--output_dir", tmp_path / folder, log=tmp_path / f"{folder}.log")


def wait(until, process):
    deadline = time.monotonic() + LIMIT
    while process.poll() is None and not until():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_killed_run_resumes_to_the_same_result(train, request, tmp_path, untimed):
    kills = request.config.getoption("--kills")
    began = time.monotonic()
    assert train("uninterrupted").wait(LIMIT) == 0, (tmp_path / "uninterrupted.log").read_text()
    lines = (tmp_path / "uninterrupted.log").read_text()
    chance, run = random.Random(request.config.getoption("--kill-seed")), tmp_path / "killed"
    in_saves = 0
    for number in range(kills):
        process = train("killed")
        size = log_size(tmp_path)
        wait(lambda size=size: log_size(tmp_path) > size, process)
        if number % 2:
            # Some way into the writing of a checkpoint, of the model at the end, or of neither.
            wait(lambda: is_written(run), process)
            time.sleep(chance.uniform(0, 0.02))
            in_saves += is_written(run)
        else:
            time.sleep(chance.uniform(0, 3))
        process.kill()
        process.wait()
    assert train("killed").wait(LIMIT) == 0, (tmp_path / "killed.log").read_text()
    print(f"{kills} kills, {in_saves} of them while files were written; {time.monotonic() - began:.0f} s in all")
    assert "Traceback" not in lines and not list(run.rglob(f"{TEMPORARY}*"))
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "uninterrupted" / "model.safetensors").read_bytes()
    uninterrupted, killed = (
        json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "uninterrupted", run)
    )
    assert untimed(killed) == untimed(uninterrupted)


def is_written(run):
    """Whether there is a checkpoint without a manifest, or a model that is not in its place yet."""
    return any(run.glob(f"{TEMPORARY}*")) or not all(
        (path / "manifest.json").exists() for path in run.glob("checkpoint-*")
    )


def log_size(folder):
    return (folder / "killed.log").stat().st_size
