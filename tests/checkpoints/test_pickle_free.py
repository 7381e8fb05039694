import json
import shutil

import pytest
import torch

from hf_cifar_resnet.checkpoints.pickle_free import read_pickle_free, write_pickle_free
from hf_cifar_resnet.checkpoints.resume import read_progress, verify_resumable
from hf_cifar_resnet.data.policies import Augmenter, build_policy

PLATEAU = {
    "lr_scheduler_type": "reduce_lr_on_plateau_with_warmup",
    "lr_scheduler_kwargs": {"patience": 1},
    "eval_strategy": "steps",
    "eval_steps": 2,
    "metric_for_best_model": "loss",
    "load_best_model_at_end": True,
    "save_total_limit": 3,
}


@pytest.fixture
def run(make_trainer, make_model, make_dataset):
    """Two epochs of a model with dropout, saved at every second step."""

    def train(folder, resume=None, **options):
        augmenter = Augmenter(build_policy("crop_flip_jitter", 8), seed=7)
        trainer = make_trainer(
            folder,
            model=make_model(dropout=0.3),
            train=make_dataset(augmenter=augmenter),
            num_train_epochs=2,
            save_strategy="steps",
            save_steps=2,
            **(PLATEAU | options),
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return train


def test_resumed_from_it_a_run_ends_with_the_same_bytes(tmp_path, run):
    whole = run("whole", save_total_limit=None)
    (tmp_path / "pushed").mkdir()
    write_pickle_free(tmp_path / "whole" / "checkpoint-4", tmp_path / "pushed", tmp_path / "whole" / "checkpoint-2")
    suffixes = {path.suffix for path in (tmp_path / "pushed").rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".py"}
    assert str(tmp_path).encode() not in b"".join(p.read_bytes() for p in (tmp_path / "pushed").glob("*.json*"))
    pushed = shutil.move(tmp_path / "pushed", tmp_path / "elsewhere")
    checkpoint = read_pickle_free(pushed, tmp_path / "resumed")
    assert checkpoint == tmp_path / "resumed" / "checkpoint-4"
    resumed = run("resumed", resume=str(checkpoint))
    for folder in ("checkpoint-8", "checkpoint-10"):
        first, second = (tmp_path / name / folder / "model.safetensors" for name in ("whole", "resumed"))
        assert first.read_bytes() == second.read_bytes()
    assert resumed.state.best_global_step == whole.state.best_global_step
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


def test_best_model_of_an_earlier_step_comes_along(tmp_path, run):
    run("whole", save_total_limit=None)
    state = json.loads((tmp_path / "whole" / "checkpoint-6" / "trainer_state.json").read_text())
    best = tmp_path / "whole" / "checkpoint-2"
    state |= {"best_global_step": 2, "best_model_checkpoint": str(best)}
    (tmp_path / "whole" / "checkpoint-6" / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "pushed").mkdir()
    write_pickle_free(tmp_path / "whole" / "checkpoint-6", tmp_path / "pushed", best)
    checkpoint = read_pickle_free(tmp_path / "pushed", tmp_path / "there")
    brought = tmp_path / "there" / "checkpoint-2"
    assert read_progress(checkpoint).best == brought
    verify_resumable(checkpoint, needs_best=True)
    assert (brought / "model.safetensors").read_bytes() == (best / "model.safetensors").read_bytes()


def test_revision_without_a_state(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a model, but not the state of its training"):
        read_pickle_free(tmp_path, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def set_step(state):
    return json.dumps(json.loads(state) | {"global_step": "2/../../mine"})


def set_best(state):
    return json.dumps(json.loads(state) | {"best_model_checkpoint": "elsewhere"})


@pytest.fixture
def pushed(tmp_path, run):
    run("whole", save_total_limit=None)
    (tmp_path / "pushed").mkdir()
    write_pickle_free(tmp_path / "whole" / "checkpoint-4", tmp_path / "pushed", tmp_path / "whole" / "checkpoint-2")
    return tmp_path / "pushed"


def test_damaged_state_is_refused_and_nothing_is_written_or_deleted(tmp_path, pushed):
    """A pushed state that others have edited, or that was not pushed to the end."""
    damages = [
        ("optimizer.pt.safetensors", lambda content: content[::-1]),
        ("optimizer.pt.safetensors", lambda content: None),
        ("optimizer.pt.json", lambda content: content[: len(content) // 2]),
        ("optimizer.pt.json", lambda content: content.replace(b'"tensor": "0"', b'"tensor": "none"')),
        ("optimizer.pt.json", lambda content: content.replace(b"dict", b"dikt")),
        ("model.safetensors", lambda content: content[:-9]),
        ("best/model.safetensors", lambda content: content[:-9]),
        ("trainer_state.json", lambda content: b"{}"),
        ("trainer_state.json", lambda content: set_step(content).encode()),
        ("trainer_state.json", lambda content: set_best(content).encode()),
    ]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for name, damage in damages:
        path = pushed / name
        content = path.read_bytes()
        path.unlink()
        if (damaged := damage(content)) is not None:
            assert damaged != content, name
            path.write_bytes(damaged)
        with pytest.raises(ValueError, match="the state in that revision is damaged"):
            read_pickle_free(pushed, tmp_path / "there")
        assert not (tmp_path / "there").exists() and (tmp_path / "mine" / "thesis.tex").exists(), name
        path.write_bytes(content)
    assert read_pickle_free(pushed, tmp_path / "there").name == "checkpoint-4"
