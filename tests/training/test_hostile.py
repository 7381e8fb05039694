"""Checkpoints that would run something when they are resumed or pushed, and a clock that goes backwards."""

import os
import time
from pickle import UnpicklingError

import pytest
import torch
from trainer_fixtures import at

from hf_cifar_resnet.checkpoints.pickle_free import write_pickle_free
from hf_cifar_resnet.checkpoints.save import write_manifest


@pytest.fixture
def checkpoint(make_trainer, tmp_path):
    make_trainer("first", save_strategy="steps", save_steps=2, max_steps=2).train()
    return tmp_path / "first" / "checkpoint-2"


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"])
def test_pickle_in_a_checkpoint_is_not_read(checkpoint, make_trainer, trap, name):
    torch.save({"a": trap}, checkpoint / name)
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    write_manifest(checkpoint)  # as who made the trap would
    with pytest.raises(ValueError, match="checkpoint-2 cannot be resumed: .* might run code") as refused:
        make_trainer("second", max_steps=4).train(resume_from_checkpoint=str(checkpoint))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth"])
def test_pickle_in_a_checkpoint_is_not_pushed(checkpoint, tmp_path, trap, name):
    torch.save({"a": trap}, checkpoint / name)
    (tmp_path / "pushed").mkdir()
    with pytest.raises(UnpicklingError):
        write_pickle_free(checkpoint, tmp_path / "pushed")


def test_newest_checkpoints_stay_when_the_clock_goes_backwards(make_trainer, tmp_path):
    def set_clock_back(args, state):
        """Since each save, so that the older checkpoints are from the future."""
        for path in (tmp_path / "run").glob("checkpoint-*"):
            later = time.time() + 86_400 * (100 - int(path.name[11:]))
            os.utime(path, (later, later))

    callbacks = [at("on_step_end", set_clock_back)]
    make_trainer(callbacks=callbacks, save_strategy="steps", save_steps=1, save_total_limit=2).train()
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]
