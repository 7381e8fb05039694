"""Mixing in the Trainer: what the model is given, in training and in evaluation."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from hf_cifar_resnet.data.mixing import Mixer

MIX = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0}


@pytest.fixture
def train(make_trainer, make_model):
    """Trains, and returns what the model was given in training and in evaluation, and the trainer."""

    def run(**options):
        model, given = make_model(), {True: [], False: []}

        def remember(module, args, kwargs):
            batch = {name: value.clone() for name, value in kwargs.items() if torch.is_tensor(value)}
            given[module.training].append(batch)

        model.register_forward_pre_hook(remember, with_kwargs=True)
        trainer = make_trainer(model=model, **options)
        trainer.train()
        return given[True], given[False], trainer

    return run


def same(left, right):
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a) for a, b in zip(left, right, strict=True)
    )


def is_mixed(batch):
    return batch["labels"].ndim == 2


@pytest.mark.parametrize("accumulation", [1, 2])
def test_batches_are_those_of_the_mixer(train, accumulation):
    options = {"num_train_epochs": 2, "gradient_accumulation_steps": accumulation, "seed": 3}
    plain, _, _ = train(**options)
    mixed, _, _ = train(**options, **MIX)
    mixer = Mixer(6, seed=3, **MIX)
    assert len(mixed) == len(plain) == 10 * accumulation
    for number, (before, after) in enumerate(zip(plain, mixed, strict=True)):
        step, part = divmod(number, accumulation)
        images, labels = mixer(before["pixel_values"], before["labels"], step, part)
        assert torch.equal(after["pixel_values"], images) and torch.equal(after["labels"], labels)
        assert is_mixed(after)


def test_evaluation_sees_no_mixing(train):
    options = {"num_train_epochs": 2, "eval_strategy": "epoch"}
    _, plain, _ = train(**options)
    _, mixed, trainer = train(**options, **MIX)
    assert len(plain) == 2 and same(plain, mixed)
    trainer.predict(trainer.eval_dataset)
    assert same(mixed[2:], plain[:1])


@pytest.mark.parametrize("stop, mixed", [(0, 0), (0.75, 15), (2, 10), (2.5, 13), (9, 20), (None, 20)])
def test_mixing_stops(train, stop, mixed):
    batches, _, _ = train(num_train_epochs=4, mixing_stop_epoch=stop, **MIX)
    assert [is_mixed(batch) for batch in batches] == [True] * mixed + [False] * (20 - mixed)
    assert all(batch["labels"].dtype == torch.int64 for batch in batches[mixed:])


def test_loss_and_accuracy_are_against_the_mixed_labels(train, make_model):
    """Of one batch: smoothed cross-entropy, and the mean share that the label gives to the predicted class."""
    [batch], _, trainer = train(global_batch_size=40, label_smoothing_factor=0.1, mixup_alpha=1.0)
    logits = make_model().train()(batch["pixel_values"]).logits
    smoothed = 0.9 * batch["labels"] + 0.1 / 6
    [logged] = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged["loss"] == pytest.approx(cross_entropy(logits, smoothed).item(), rel=1e-5)
    share = [label[predicted].item() for label, predicted in zip(batch["labels"], logits.argmax(1), strict=True)]
    assert logged["accuracy"] == pytest.approx(sum(share) / 40)


def test_off_by_default(train):
    batches, _, _ = train()
    assert all(batch["labels"].dtype == torch.int64 for batch in batches)
    assert same(batches, train(mixing_probability=1.0, mixing_stop_epoch=3)[0])
