"""Complete checkpoints: damage is detected, what is needed is kept, and a full disk loses nothing."""

import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from trainer_fixtures import at

from hf_cifar_resnet.checkpoints.resume import find_last_resumable
from hf_cifar_resnet.checkpoints.save import verify_checkpoint, write_manifest
from hf_cifar_resnet.documents import MAX_JSON, read_json
from hf_cifar_resnet.training.record import make_metrics

SAVING = {"save_strategy": "steps", "save_steps": 2}


@pytest.fixture
def run(make_trainer, tmp_path):
    make_trainer("run", max_steps=4, **SAVING).train()
    return tmp_path / "run"


def test_state_of_a_long_run_is_read(run):
    """A log of every step is some 300 bytes, so 70,000 steps fill more than other JSON files may have."""
    path = run / "checkpoint-4" / "trainer_state.json"
    state = read_json(path)
    state["log_history"] *= 70_000 * 300 // len(json.dumps(state["log_history"]))
    path.write_text(json.dumps(state))
    assert path.stat().st_size > MAX_JSON
    write_manifest(path.parent)
    assert find_last_resumable(run, needs_best=True) == path.parent


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def take_from_another_step(path):
    shutil.copy(path.parents[1] / "checkpoint-2" / path.name, path)


# The state of the random numbers is the same at every step here, and so never that of another.
OF_EACH_STEP = ["model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "manifest.json"]
HARMS = [(harm, name) for harm in (truncate, flip_a_bit, Path.unlink) for name in [*OF_EACH_STEP, "rng_state.pth"]]


def test_damaged_checkpoint_is_refused_and_replaced_by_resuming(run, make_trainer):
    path = run / "checkpoint-4"
    shutil.copytree(path, run / "intact")
    for harm, name in [*HARMS, *((take_from_another_step, name) for name in OF_EACH_STEP)]:
        harm(path / name)
        with pytest.raises(ValueError, match="checkpoint-4 is (damaged|not complete)"):
            verify_checkpoint(path)
        assert find_last_resumable(run, needs_best=False).name == "checkpoint-2"
        shutil.rmtree(path)
        shutil.copytree(run / "intact", path)
        assert find_last_resumable(run, needs_best=False) == path
    for name in ("scaler.pt", "below/optimizer.pt"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=f"is damaged: {name} does not belong to it"):
            verify_checkpoint(path)
        (path / name).unlink()
    truncate(path / "model.safetensors")
    trainer = make_trainer("run", **SAVING)
    damage = "checkpoint-4 is damaged: model.safetensors has been changed"
    with pytest.raises(ValueError, match=damage) as refused:
        trainer.train(resume_from_checkpoint=str(path))
    assert "\n" not in str(refused.value)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 5
    verify_checkpoint(path)


def test_checkpoint_of_another_model_is_refused(run, make_trainer, make_model):
    for other in ({"stage_widths": [16, 16]}, {"stage_depths": [1, 2]}):
        trainer = make_trainer("again", model=make_model(**other))
        with pytest.raises(ValueError, match="checkpoint-4 cannot be resumed: it belongs to another model") as refused:
            trainer.train(resume_from_checkpoint=str(run / "checkpoint-4"))
        assert "\n" not in str(refused.value)


def test_checkpoint_without_optimizer_is_refused(make_trainer, tmp_path):
    make_trainer("run", save_only_model=True, **SAVING).train()
    with pytest.raises(ValueError, match="checkpoint-4 cannot be resumed: it was saved with save_only_model"):
        make_trainer("run").train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))


@pytest.fixture
def train_best(make_trainer, make_dataset, tmp_path):
    """Trains for four epochs, of which the first evaluation was the best; returns the trainer."""
    calls = itertools.count()
    best = {"save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True, "num_train_epochs": 4,
            "metric_for_best_model": "earliness", "greater_is_better": True}  # fmt: skip

    def train(folder="run", resume=None, **options):
        trainer = make_trainer(
            folder, evaluate=make_dataset(), compute_metrics=lambda _: {"earliness": -next(calls)}, **best | options
        )
        trainer.train(resume_from_checkpoint=resume and str(tmp_path / folder / resume))
        return trainer

    return train


@pytest.mark.parametrize("limit", [1, 2])
def test_best_and_last_are_kept_and_move_with_the_run(train_best, tmp_path, limit):
    trained = train_best(save_total_limit=limit)
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-20", "checkpoint-5"]
    (tmp_path / "run").rename(tmp_path / "moved")
    more = train_best("moved", "checkpoint-20", save_total_limit=limit, num_train_epochs=5)
    assert more.state.best_model_checkpoint == str(tmp_path / "moved" / "checkpoint-5")
    torch.testing.assert_close(trained.model.state_dict(), more.model.state_dict(), rtol=0, atol=0)


def test_run_without_its_best_model_is_not_resumed(train_best, tmp_path):
    train_best()
    shutil.rmtree(tmp_path / "run" / "checkpoint-5")
    with pytest.raises(
        ValueError, match="checkpoint-20 needs the best model up to it: there is no checkpoint .*checkpoint-5"
    ):
        train_best(resume="checkpoint-20")


def test_best_evaluation_that_was_not_saved_is_not_reported_as_the_model(train_best):
    steps = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps", "eval_steps": 2}
    trainer = train_best(num_train_epochs=2, **steps)
    assert trainer.state.best_global_step == 2  # which has no checkpoint
    assert make_metrics(trainer.state, trainer.args, "validation").best_epoch == 2
    assert train_best(resume="checkpoint-4", num_train_epochs=2, **steps).state.global_step == 10


def test_last_model_is_not_taken_for_a_best_one_that_is_lost(train_best, tmp_path):
    def lose_the_best(args, state):
        if state.global_step == 19:
            truncate(tmp_path / "run" / "checkpoint-5" / "model.safetensors")

    with pytest.raises(
        ValueError, match="its best model cannot be loaded: .*checkpoint-5 is damaged: model.safetensors has"
    ):
        train_best(callbacks=[at("on_step_begin", lose_the_best)])


# Disks


def test_full_disk_is_reported_before_training(mount, make_trainer, tmp_path):
    mount("size=1m")
    trainer = make_trainer("disk", **SAVING)
    with pytest.raises(OSError, match=r"training may take \d+ MB, and the disk of .* has \d+ MB left: make room"):
        trainer.train()
    assert trainer.state.global_step == 0 and list((tmp_path / "disk").iterdir()) == []


def test_full_disk_is_reported_before_a_save(mount, make_trainer):
    """Somebody else fills it after the first checkpoint."""
    disk = mount("size=8m")

    def fill(args, state):
        (disk / "theirs").write_bytes(bytes(os.statvfs(disk).f_bavail * 4096 - 2**19))

    with pytest.raises(OSError, match="the checkpoint of step 4 may take .* MB left: make room"):
        make_trainer("disk", callbacks=[at("on_save", fill)], **SAVING).train()
    assert find_last_resumable(disk, needs_best=False).name == "checkpoint-2"


def test_disk_that_fills_up_during_a_save(mount, make_trainer):
    # Room for the files of one checkpoint and half of another: the bytes would suffice.
    disk = mount("size=50m,nr_inodes=22")
    with pytest.raises(OSError, match="checkpoint of step 4 could not be written .*No space left.*checkpoint-2 is"):
        make_trainer("disk", **SAVING).train()
    assert [path.name for path in disk.iterdir()] == ["checkpoint-2"]
    subprocess.run(["mount", "-o", "remount,nr_inodes=100", str(disk)], check=True)
    resumed = make_trainer("disk", **SAVING)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 5


def test_write_that_fails_leaves_the_last_checkpoint(limit_file_size, make_trainer, tmp_path):
    """From the first checkpoint on: a quota, wherever tests run."""
    limit = at("on_save", lambda args, state: limit_file_size(4096))
    with pytest.raises(OSError, match="the checkpoint of step 4 could not be written .*; .*checkpoint-2 is") as raised:
        make_trainer("run", callbacks=[limit], **SAVING).train()
    limit_file_size()
    assert "\n" not in str(raised.value)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-2"]
    verify_checkpoint(tmp_path / "run" / "checkpoint-2")


def test_final_model_is_replaced_atomically(limit_file_size, make_trainer, tmp_path):
    trainer = make_trainer("run", max_steps=1)
    trainer.train()
    trainer.save_model()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    trainer.train()
    limit_file_size(4096)
    with pytest.raises(Exception, match="(?i)error|large"):
        trainer.save_model()
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
