import copy
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_cifar_resnet import CifarResNetForImageClassification
from hf_cifar_resnet.training.ema import WeightAverage

FAST = {"learning_rate": 0.01, "ema_decay": 0.8}


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)


def differ(left, right):
    return any(not left[name].equal(right[name]) for name in left)


class States(TrainerCallback):
    """The weights that were trained, after every step."""

    def __init__(self):
        self.own = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.own.append(globals()["state"](model))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.own.append(globals()["state"](model))


def closed_form(states, decay):
    """The average as a sum over all states, each with the weight that the steps after it left it."""
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(1, len(states))]
    shares = [1.0, *(1 - d for d in decays)]
    for i in range(len(shares)):
        for later in decays[i:]:
            shares[i] *= later
    assert sum(shares) == pytest.approx(1)
    return {
        name: sum(share * s[name].double() for share, s in zip(shares, states, strict=True))
        if last.is_floating_point()
        else last
        for name, last in states[-1].items()
    }


def test_average_is_the_closed_form(make_trainer):
    decay = 0.5
    states = States()
    trainer = make_trainer(callbacks=[states], num_train_epochs=3, learning_rate=0.01, ema_decay=decay)
    trainer.train()
    expected = closed_form(states.own, decay)
    for name, tensor in trainer.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name].to(tensor.dtype), rtol=1e-4, atol=1e-6)
    # Among them the statistics and counts of BatchNorm.
    assert {name.rpartition(".")[2] for name in expected} >= {"running_mean", "running_var", "num_batches_tracked"}


def test_averages_are_evaluated_and_the_own_weights_are_trained_on(make_trainer, make_dataset):
    """With evaluations and averages the same weights are trained as without, and other ones are scored."""
    plain, averaged = States(), States()
    options = {"num_train_epochs": 3, "eval_strategy": "epoch", "evaluate": make_dataset(seed=1)}
    without = make_trainer(callbacks=[plain], learning_rate=0.01, **options)
    without.train()
    trainer = make_trainer(callbacks=[averaged], **FAST, **options)
    trainer.train()
    for before, after in zip(plain.own, averaged.own, strict=True):
        assert_same(before, after)
    scored, of_own = ([e["eval_loss"] for e in t.state.log_history if "eval_loss" in e] for t in (trainer, without))
    assert all(left != right for left, right in zip(scored, of_own, strict=True))
    # What training leaves is what was scored last.
    assert trainer.evaluate()["eval_loss"] == scored[-1]


@pytest.fixture
def best_of_three(make_trainer):
    """A trainer that ran three epochs of which the second was the best."""

    def train(**options):
        scores = iter([0.1, 0.9, 0.5])
        trainer = make_trainer(
            compute_metrics=lambda prediction: {"top1": next(scores)},
            num_train_epochs=3,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            **FAST,
            **options,
        )
        trainer.train()
        return trainer

    return train


def test_average_of_the_best_epoch_is_the_model(best_of_three, tmp_path):
    trainer = best_of_three()
    trainer.save_model()
    best = tmp_path / "run" / "checkpoint-10"
    own, averages = load_file(best / "model.safetensors"), load_file(best / "ema.safetensors")
    assert differ(own, averages) and {n: t.shape for n, t in own.items()} == {n: t.shape for n, t in averages.items()}
    assert_same(trainer.model.state_dict(), averages)
    assert_same(CifarResNetForImageClassification.from_pretrained(tmp_path / "run").state_dict(), averages)
    # One model a user could load is enough.
    assert not (tmp_path / "run" / "ema.safetensors").exists()


def test_raw_weights_are_the_model_if_that_is_asked_for(best_of_three, tmp_path):
    trainer = best_of_three(saved_weights="raw")
    own = load_file(tmp_path / "run" / "checkpoint-10" / "model.safetensors")
    assert_same(trainer.model.state_dict(), own)
    assert differ(own, load_file(tmp_path / "run" / "checkpoint-10" / "ema.safetensors"))


def test_second_training_starts_from_the_average(make_trainer):
    states = States()
    trainer = make_trainer(callbacks=[states], **FAST)
    trainer.train()
    left = state(trainer.model)
    trainer.train()
    assert_same(states.own[6], left)


def test_resuming_needs_the_averages(make_trainer, tmp_path):
    make_trainer(save_strategy="epoch").train()
    with pytest.raises(ValueError, match="without ema_decay"):
        make_trainer(**FAST).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-5"))


def test_model_keeps_its_weights_if_an_evaluation_fails(make_model):
    model = make_model()
    average = WeightAverage(model, 0.5)
    before = copy.deepcopy(state(model))
    torch.nn.init.zeros_(model.classifier.weight)
    trained = state(model)
    with pytest.raises(RuntimeError), average.in_model():
        assert_same(state(model), before)
        raise RuntimeError
    assert_same(state(model), trained)
