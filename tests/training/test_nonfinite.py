"""Images of NaN, activations and gradients that overflow: planted in the data and the weights of real trainings."""

import math

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from hf_cifar_resnet.data.dataset import EpochSampler, ImageDataset, normalize
from hf_cifar_resnet.errors import UserError
from hf_cifar_resnet.reporting import records
from hf_cifar_resnet.training import describe
from hf_cifar_resnet.training.nonfinite import LATE

OPTIMIZERS = [
    {"optim": "adamw_torch_fused"},
    {"optim": "adamw_torch"},
    {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=true"},
    {"optim": "rmsprop"},
    {"optim": "adafactor"},
]


class Poisoned(ImageDataset):
    """Image 13 is not a number, or as large as `value` says."""

    value = math.nan

    def __getitems__(self, positions):
        batch = super().__getitems__(positions)
        pixels = batch["pixel_values"]
        if not self.normalizes:
            pixels = normalize(pixels, self.mean, self.std)
        pixels[np.asarray(positions) % len(self) == 13] = self.value
        return batch | {"pixel_values": pixels}


class Overflowing(Poisoned):
    """Its activations' variance overflows, which makes BatchNorm's statistics infinite, and the loss finite."""

    value = 1e30


class Everything(TrainerCallback):
    """All that a training has, before and after every step."""

    def __init__(self):
        self.before, self.after = {}, {}

    def now(self, state):
        moments = self.trainer.optimizer.state_dict()["state"]
        moments = {f"{i} {n}": v for i, values in moments.items() for n, v in values.items() if torch.is_tensor(v)}
        average = {f"average {i}": value for i, value in enumerate(self.trainer.averages())}
        held = dict(self.trainer.model.state_dict()) | moments | average
        return {name: value.clone() for name, value in held.items()}

    def on_step_begin(self, args, state, control, **kwargs):
        self.before[state.global_step + 1] = self.now(state)

    def on_step_end(self, args, state, control, **kwargs):
        self.after[state.global_step] = self.now(state)


def step_of(index, epoch=0, batch=8):
    """The step that image `index` of 40 is in, counted from 1."""
    place = int(np.flatnonzero(EpochSampler(40, 42).order(epoch) == index)[0])
    return epoch * math.ceil(40 / batch) + place // batch + 1


@pytest.fixture
def train(make_trainer, make_dataset):
    """Trains with all that is averaged on 40 images of which one is planted; returns the trainer and [`Everything`]."""

    def run(kind=Poisoned, count=40, resume=None, **options):
        seen = Everything()
        options = {"ema_decay": 0.9, "learning_rate": 0.01, "nonfinite": "skip", "seed": 42} | options
        trainer = make_trainer(train=make_dataset(count, kind=kind), callbacks=[seen], **options)
        seen.trainer = trainer
        trainer.train(resume_from_checkpoint=resume)
        return trainer, seen

    return run


def assert_same(left, right):
    assert left.keys() == right.keys()
    assert [name for name in left if not left[name].equal(right[name])] == []


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


# The step changes nothing


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda options: options["optim"])
@pytest.mark.parametrize("kind", [Poisoned, Overflowing])
def test_nothing_is_touched(train, kind, optimizer):
    trainer, seen = train(kind, **optimizer, num_train_epochs=2)
    bad = {step_of(13, epoch) for epoch in (0, 1)}
    assert 1 not in bad and len(seen.after) == 10
    for step in seen.after:
        if step in bad:
            assert_same(seen.before[step], seen.after[step])
        else:
            assert not seen.before[step]["classifier.weight"].equal(seen.after[step]["classifier.weight"])
    assert all(value.isfinite().all() for value in seen.after[10].values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda options: options["optim"])
def test_bad_first_step_leaves_no_moments(train, optimizer):
    """The first step makes the moments; they are those of the training that starts with the second."""
    _, seen = train(seed=4, **optimizer)
    assert int(np.flatnonzero(EpochSampler(40, 4).order(0) == 13)[0]) < 8, "a seed by which image 13 comes first"
    moments = {name: value for name, value in seen.after[1].items() if name not in seen.before[1]}
    assert not any(value.any() for value in moments.values())
    assert all(value.isfinite().all() for value in seen.after[5].values())


def test_whole_step_is_left_out_where_one_of_its_batches_is_bad(train):
    _, seen = train(gradient_accumulation_steps=2, global_batch_size=16)
    bad = step_of(13, batch=16)
    assert_same(seen.before[bad], seen.after[bad])
    assert len(seen.after) == 3


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.0}, {"mixup_alpha": 1.0, "cutmix_alpha": 1.0}])
def test_with_and_without_clipping_and_mixing(train, options):
    trainer, seen = train(**options)
    assert_same(seen.before[step_of(13)], seen.after[step_of(13)])
    assert logged(trainer, "skipped_steps") == [1]


def test_gradient_alone(train, make_model):
    """The loss is a number, and so are all gradients but one."""
    model = make_model()
    factors = iter([1.0, math.inf, 1.0, 1.0, 1.0])
    model.classifier.bias.register_hook(lambda gradient: gradient * next(factors))
    trainer, seen = train(ImageDataset, model=model)
    assert_same(seen.before[2], seen.after[2])
    assert [math.isnan(loss) for loss in logged(trainer, "loss")] == [False, True, False, False, False]


def test_guarding_changes_no_bit_of_a_good_training(make_trainer, train):
    weights = []
    for _ in range(2):
        trainer, _ = train(ImageDataset, **({"nonfinite": "stop"} if weights else {}))
        weights.append(trainer.model.state_dict())
    assert_same(*weights)


# Skipping


def test_what_is_logged_is_of_the_steps_that_counted(train):
    """As a log for each step has it: the mean over the four good steps, and no NaN among the right ones."""
    each, _ = train(logging_steps=1)
    once, _ = train(logging_strategy="epoch")
    bad = step_of(13)
    losses, accuracies = logged(each, "loss"), logged(each, "train_accuracy")
    assert [step for step, loss in enumerate(losses, 1) if math.isnan(loss)] == [bad]
    assert math.isnan(accuracies[bad - 1])
    assert logged(once, "loss") == pytest.approx([np.nanmean(losses)], rel=1e-6)
    assert logged(once, "train_accuracy") == pytest.approx([np.nanmean(accuracies)])


def test_skipped_steps_are_counted_and_told(train, capsys):
    trainer, _ = train(num_train_epochs=3, logging_strategy="epoch")
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("warning: step ")]
    assert [int(line.split()[2]) for line in lines] == [step_of(13, epoch) for epoch in range(3)]
    assert all("the step is skipped" in line and "13" in line.split(": ")[-1].split() for line in lines)
    assert out.count("1 steps skipped") == 3
    assert describe.metrics(trainer.state, trainer.args, "test")["skipped_steps"] == 3
    assert [row["skipped_steps"] for row in records.history(trainer.state.log_history)] == [1, 1, 1]


def test_good_run_tells_nothing_of_it(train, capsys):
    trainer, _ = train(ImageDataset)
    assert describe.metrics(trainer.state, trainer.args, "test")["skipped_steps"] == 0
    assert "skipped" not in capsys.readouterr().out


# Stopping


@pytest.mark.parametrize(
    "options", [{}, {"gradient_accumulation_steps": 2}, {"max_steps": 5}, {"lr_scheduler_type": "one_cycle"}]
)
def test_run_stops_and_names_step_rate_and_images(train, options):
    with pytest.raises(UserError) as stopped:
        train(nonfinite="stop", logging_strategy="no", **options)
    good, _ = train(ImageDataset, **options)
    step, text = step_of(13), str(stopped.value)
    assert text.startswith(f"step {step} (LR {logged(good, 'learning_rate')[step - 1]:.4g}): ") and "\n" not in text
    images = EpochSampler(40, 42).order(0)[(step - 1) * 8 : step * 8]
    assert text.endswith(": " + " ".join(map(str, images)))


def test_it_stops_within_a_few_steps(train, make_dataset, make_trainer):
    """Without waiting at every step: it goes on for `LATE` steps and no further."""
    seen = Everything()
    trainer = make_trainer(
        train=make_dataset(400, kind=Poisoned), callbacks=[seen], logging_strategy="no", ema_decay=0.9
    )
    seen.trainer = trainer
    with pytest.raises(UserError) as stopped:
        trainer.train()
    bad = int(str(stopped.value).split()[1])
    assert max(seen.before) == bad + LATE
    assert_same(seen.before[bad], seen.after[bad])


def test_last_checkpoint_is_intact_and_can_be_gone_on_from(train, tmp_path):
    bad = step_of(13)
    with pytest.raises(UserError, match=f"^step {bad} .* holds is intact"):
        train(nonfinite="stop", save_strategy="steps", save_steps=1, logging_strategy="no")
    saved = sorted(int(path.name[11:]) for path in (tmp_path / "run").glob("checkpoint-*"))
    # A save waits for the outcome of its step.
    assert saved == list(range(1, bad))
    trainer, _ = train(resume=str(tmp_path / "run" / f"checkpoint-{bad - 1}"), logging_steps=1)
    assert logged(trainer, "skipped_steps") == [1]
