"""Fixtures of tests that train small models on noise."""

import gc

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from hf_cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification, CifarTrainer
from hf_cifar_resnet.data.dataset import ImageDataset
from hf_cifar_resnet.training.arguments import CifarTrainingArguments

MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Threads cost more than they bring on models this small, and so does the Trainer's search for garbage."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


def at(event, function):
    """A callback that calls `function` with the arguments and the state at an event, such as "on_save"."""

    def call(self, args, state, control, **kwargs):
        function(args, state)

    return type("At", (TrainerCallback,), {event: call})()


class Recorder(TrainerCallback):
    """The learning rate and first momentum that every optimizer step really used."""

    def __init__(self):
        self.rates, self.momenta = [], []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        group = optimizer.param_groups[0]
        self.rates.append(group["lr"])
        self.momenta.append(group["betas"][0] if "betas" in group else group.get("momentum"))


@pytest.fixture
def make_dataset():
    """`count` images of 8x8 noise in 5 of 6 classes."""

    def make(count=40, seed=0, kind=ImageDataset, augmenter=None):
        generator = np.random.default_rng(seed)
        images = generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        return kind(images, generator.integers(0, 5, count), MEAN, STD, augmenter)

    return make


@pytest.fixture
def make_model():
    def make(seed=0, **config):
        torch.manual_seed(seed)
        shape = {"block": "basic", "stage_depths": [1, 1], "stage_widths": [16, 32], "num_labels": 6}
        return CifarResNetForImageClassification(CifarResNetConfig(**(shape | config)))

    return make


@pytest.fixture
def make_args(tmp_path):
    """Arguments of a small run on the CPU that saves and evaluates only where it is told to."""

    def make(folder="run", **options):
        quiet = {
            "use_cpu": True,
            "bf16": False,  # the same figures on every CPU
            "global_batch_size": 8,
            "num_train_epochs": 1,
            "logging_strategy": "steps",
            "logging_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "save_total_limit": None,
            "load_best_model_at_end": False,
        }
        return CifarTrainingArguments(output_dir=str(tmp_path / folder), **(quiet | options))

    return make


@pytest.fixture
def make_trainer(make_args, make_model, make_dataset):
    """A [`CifarTrainer`] on 40 images of noise: 5 steps an epoch, unless told otherwise."""

    def make(folder="run", *, model=None, train=None, evaluate=None, compute_metrics=None, callbacks=(), **options):
        return CifarTrainer(
            model=make_model() if model is None else model,
            args=make_args(folder, **options),
            train_dataset=train or make_dataset(),
            eval_dataset=evaluate or make_dataset(seed=1),
            compute_metrics=compute_metrics,
            callbacks=list(callbacks),
        )

    return make


@pytest.fixture
def rates_used(make_trainer):
    """Trains, and returns the [`Recorder`] of its steps and the trainer."""

    def train(resume=None, callbacks=(), **options):
        recorder = Recorder()
        trainer = make_trainer(callbacks=[*callbacks, recorder], **options)
        trainer.train(resume_from_checkpoint=resume)
        return recorder, trainer

    return train
