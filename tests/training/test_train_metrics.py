"""Images of NaN, activations and gradients that overflow: planted in the data and the weights of real trainings."""

import math

import numpy as np
import pytest
from trainer_fixtures import Recorder

from hf_cifar_resnet.checkpoints.save import verify_checkpoint
from hf_cifar_resnet.data.dataset import EpochSampler, ImageDataset, normalize
from hf_cifar_resnet.training.train_metrics import CHECK_EVERY


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


BAD = int(np.flatnonzero(EpochSampler(40, 42).order(0) == 13)[0]) // 8 + 1  # the step that image 13 of 40 is in


@pytest.fixture
def stopped(make_trainer, make_dataset):
    """Trains on images of which one is planted until it stops; what it says, and the [`Recorder`] of its steps."""

    def run(kind=Poisoned, count=40, **options):
        steps = Recorder()
        options = {"learning_rate": 0.01, "seed": 42, "logging_strategy": "no"} | options
        trainer = make_trainer(train=make_dataset(count, kind=kind), callbacks=[steps], **options)
        with pytest.raises(FloatingPointError) as error:
            trainer.train()
        return str(error.value), steps

    return run


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 2}, {"max_steps": BAD}, {"lr_scheduler_type": "one_cycle", "ema_decay": 0.9},
     {"mixup_alpha": 1.0, "max_grad_norm": 0.0}, {"logging_strategy": "epoch"}],
    ids=str,
)  # fmt: skip
def test_run_stops_and_names_step_rate_and_images(stopped, options):
    text, steps = stopped(**options)
    assert text.startswith(f"step {BAD} (LR {steps.rates[BAD - 1]:.4g}): ") and "\n" not in text
    images = EpochSampler(40, 42).order(0)[(BAD - 1) * 8 : BAD * 8]
    assert text.endswith(": " + " ".join(map(str, images)))


def test_it_stops_within_some_steps(stopped):
    text, steps = stopped(count=40 * CHECK_EVERY)
    bad = int(text.split()[1])
    assert bad <= len(steps.rates) < bad + CHECK_EVERY and len(steps.rates) % CHECK_EVERY == 0


@pytest.mark.parametrize("kind", [Poisoned, Overflowing])
def test_nothing_is_saved_of_it(stopped, tmp_path, kind):
    text, steps = stopped(kind, save_strategy="steps", save_steps=1)
    saved = sorted(int(path.name[11:]) for path in (tmp_path / "run").glob("checkpoint-*"))
    assert saved == list(range(1, BAD)) and f"{tmp_path}/run has saved before is intact" in text
    verify_checkpoint(tmp_path / "run" / f"checkpoint-{saved[-1]}")


def test_nothing_is_evaluated_of_it(stopped, capsys):
    stopped(Overflowing, eval_strategy="epoch")
    assert "eval loss" not in capsys.readouterr().out


def test_gradient_alone(stopped, make_model):
    """The loss is a number, and so are all gradients but one: the step after it, or a save, has what came of it."""
    for options, found in (({}, 3), ({"save_strategy": "steps", "save_steps": 1}, 2)):
        model = make_model()
        factors = iter([1.0, math.inf, 1.0, 1.0, 1.0])
        model.classifier.bias.register_hook(lambda gradient, factors=factors: gradient * next(factors))
        text, _ = stopped(ImageDataset, model=model, **options)
        assert text.startswith(f"step {found} ")
