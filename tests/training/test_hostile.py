"""Checkpoints that would run something when they are resumed or pushed, and a clock that goes backwards."""

import os
import time
from pickle import UnpicklingError

import pytest
import torch
from transformers import TrainerCallback

from hf_cifar_resnet.checkpoints.portable import write_portable
from hf_cifar_resnet.checkpoints.save import write_manifest
from hf_cifar_resnet.errors import UserError


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.fixture
def checkpoint(make_trainer, tmp_path):
    make_trainer("first", save_strategy="steps", save_steps=2, max_steps=2).train()
    return tmp_path / "first" / "checkpoint-2"


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"])
def test_pickle_in_a_checkpoint_is_not_read(checkpoint, make_trainer, tmp_path, name):
    torch.save({"a": Trap(tmp_path / "trapped")}, checkpoint / name)
    torch.load(checkpoint / name, weights_only=False)["a"].close()
    (tmp_path / "trapped").unlink()  # the trap works
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    write_manifest(checkpoint)  # as who made the trap would
    with pytest.raises(UserError, match="checkpoint-2 cannot be resumed: .* might run code") as refused:
        make_trainer("second", max_steps=4).train(resume_from_checkpoint=str(checkpoint))
    assert "\n" not in str(refused.value) and not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth"])
def test_pickle_in_a_checkpoint_is_not_pushed(checkpoint, tmp_path, name):
    torch.save({"a": Trap(tmp_path / "trapped")}, checkpoint / name)
    (tmp_path / "pushed").mkdir()
    with pytest.raises(UnpicklingError):
        write_portable(checkpoint, tmp_path / "pushed")
    assert not (tmp_path / "trapped").exists()


class ClockSetBack(TrainerCallback):
    """After each save the older checkpoints are from the future, as where the clock was set back meanwhile."""

    def __init__(self, folder):
        self.folder = folder

    def on_step_end(self, args, state, control, **kwargs):
        for path in self.folder.glob("checkpoint-*"):
            later = time.time() + 86_400 * (100 - int(path.name[11:]))
            os.utime(path, (later, later))


def test_newest_checkpoints_stay_when_the_clock_goes_backwards(make_trainer, tmp_path):
    trainer = make_trainer(
        "run", callbacks=[ClockSetBack(tmp_path / "run")], save_strategy="steps", save_steps=1, save_total_limit=2
    )
    trainer.train()
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]
