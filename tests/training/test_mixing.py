"""Mixing in the Trainer: what the model is given, in training and in evaluation, and what it is compared with."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from hf_cifar_resnet.data.dataset import ImageDataset
from hf_cifar_resnet.data.mixing import Mixer

MIX = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0}


class WithLabels(ImageDataset):
    """Remembers the labels of every batch."""

    def __init__(self, *args):
        super().__init__(*args)
        self.fetched = []

    def __getitems__(self, positions):
        batch = super().__getitems__(positions)
        self.fetched.append(batch["labels"])
        return batch


@pytest.fixture
def train(make_trainer, make_model, make_dataset):
    """Trains, and returns the images that the model was given in training and in evaluation, and the trainer."""

    def run(**options):
        model, given = make_model(), {True: [], False: []}

        def remember(module, args, kwargs):
            given[module.training].append(kwargs["pixel_values"].clone())

        model.register_forward_pre_hook(remember, with_kwargs=True)
        trainer = make_trainer(model=model, train=make_dataset(kind=WithLabels), **options)
        trainer.train()
        return given[True], given[False], trainer

    return run


def same(left, right):
    return len(left) == len(right) and all(map(torch.equal, left, right))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_batches_are_those_of_the_mixer(train, accumulation):
    options = {"num_train_epochs": 2, "gradient_accumulation_steps": accumulation, "seed": 3}
    plain, _, _ = train(**options)
    mixed, _, _ = train(**options, **MIX)
    mixer = Mixer(6, seed=3, **MIX)
    assert len(mixed) == len(plain) == 10 * accumulation
    for number, (before, after) in enumerate(zip(plain, mixed, strict=True)):
        images, _ = mixer(before, torch.zeros(len(before), dtype=torch.int64), *divmod(number, accumulation))
        assert torch.equal(after, images)
    assert not same(plain, mixed)


def test_evaluation_sees_no_mixing(train):
    options = {"num_train_epochs": 2, "eval_strategy": "epoch"}
    _, plain, _ = train(**options)
    _, mixed, trainer = train(**options, **MIX)
    assert len(plain) == 2 and same(plain, mixed)
    trainer.predict(trainer.eval_dataset)
    assert same(mixed[2:], plain[:1])


@pytest.mark.parametrize("stop, mixed", [(0, 0), (0.75, 15), (2, 10), (2.5, 13), (9, 20), (None, 20)])
def test_mixing_stops(train, stop, mixed):
    plain, _, _ = train(num_train_epochs=4)
    batches, _, _ = train(num_train_epochs=4, mixing_stop_epoch=stop, mixup_alpha=1.0)
    are_plain = [batch.equal(before) for batch, before in zip(batches, plain, strict=True)]
    assert are_plain == [False] * mixed + [True] * (20 - mixed)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_loss_and_accuracy_are_against_the_mixed_labels(train, make_model, alpha):
    """Of one batch: smoothed cross-entropy, and the mean share that the label gives to the predicted class."""
    [images], _, trainer = train(global_batch_size=40, label_smoothing_factor=0.1, mixup_alpha=alpha)
    [labels] = trainer.train_dataset.fetched
    # As class probabilities in both cases.
    _, labels = Mixer(6, mixup_alpha=1.0, probability=float(alpha > 0), seed=trainer.args.seed)(images, labels, 0)
    logits = make_model().train()(images).logits
    [logged] = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged["loss"] == pytest.approx(cross_entropy(logits, 0.9 * labels + 0.1 / 6).item(), rel=1e-5)
    share = [label[predicted].item() for label, predicted in zip(labels, logits.argmax(1), strict=True)]
    assert logged["accuracy"] == pytest.approx(sum(share) / 40)


def test_off_by_default(train):
    assert same(train()[0], train(mixing_probability=1.0, mixing_stop_epoch=3)[0])
