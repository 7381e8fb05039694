from statistics import mean
from types import SimpleNamespace

import pytest

from hf_cifar_resnet.runs.metrics import Timing
from hf_cifar_resnet.training.record import make_metrics

LOG = [
    {"loss": 2.0, "learning_rate": 0.1, "accuracy": 0.25, "images_per_second": 100.0, "seconds": 1.0, "epoch": 0.5,
     "step": 5},
    {"loss": 1.5, "learning_rate": 0.05, "accuracy": 0.5, "images_per_second": 110.0, "seconds": 2.0, "epoch": 1.0,
     "step": 10},
    {"eval_loss": 1.75, "eval_top1": 0.5, "epoch": 1.0, "step": 10},
    {"eval_loss": 1.25, "eval_top1": 0.625, "epoch": 2.0, "step": 20},
]  # fmt: skip


def state_of(log_history):
    return SimpleNamespace(log_history=log_history, global_step=20, epoch=2.0, best_model_checkpoint=None)


ARGS = SimpleNamespace(load_best_model_at_end=False, metric_for_best_model="top1")


def test_speed_covers_all_of_the_training():
    assert make_metrics(state_of(LOG), ARGS, "none").timing == Timing(2.0, 105.0)
    assert make_metrics(state_of([]), ARGS, "none").timing == Timing(None, None)


@pytest.mark.parametrize(
    "options",
    [{"logging_steps": 2}, {"logging_steps": 6}, {"logging_steps": 7}, {"logging_strategy": "epoch"},
     {"logging_strategy": "no"}, {"logging_steps": 2, "gradient_accumulation_steps": 2}],
    ids=str,
)  # fmt: skip
def test_train_accuracy_is_that_of_the_last_epoch(make_trainer, options):
    """Whatever the logging interval: 40 images make 5 steps, and so does the epoch's mean of 5 equal batches."""
    expected = make_trainer(num_train_epochs=2, logging_strategy="steps", logging_steps=1)
    expected.train()
    last = [entry for entry in expected.state.log_history if "loss" in entry][-5:]
    trainer = make_trainer(num_train_epochs=2, **{"logging_strategy": "steps"} | options)
    trainer.train()
    train = make_metrics(trainer.state, trainer.args, "none").train
    if "gradient_accumulation_steps" not in options:  # which trains other weights
        assert train.accuracy == pytest.approx(mean(entry["accuracy"] for entry in last))
        assert train.loss == pytest.approx(mean(entry["loss"] for entry in last))
    assert (train.accuracy * 40) % 1 == pytest.approx(0)


def test_train_accuracy_of_an_epoch_that_was_interrupted(make_trainer, tmp_path):
    """An epoch has 5 steps; the run is resumed after the eighth."""
    options = {"num_train_epochs": 2, "logging_steps": 3, "logging_strategy": "steps"}
    complete = make_trainer("complete", **options)
    complete.train()
    make_trainer("run", save_strategy="steps", save_steps=8, **options).train()
    resumed = make_trainer("run", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))
    metrics = [make_metrics(trainer.state, trainer.args, "none").train for trainer in (complete, resumed)]
    assert metrics[0] == metrics[1] and metrics[0].accuracy is not None


def test_train_accuracy_of_a_run_that_ended_within_an_epoch_and_is_prolonged(make_trainer, tmp_path):
    options = {"logging_steps": 3, "logging_strategy": "steps", "save_strategy": "steps", "save_steps": 8}
    complete = make_trainer("complete", max_steps=10, lr_scheduler_type="constant", **options)
    complete.train()
    make_trainer("run", max_steps=8, lr_scheduler_type="constant", **options).train()
    resumed = make_trainer("run", max_steps=10, lr_scheduler_type="constant", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))
    metrics = [make_metrics(trainer.state, trainer.args, "none").train for trainer in (complete, resumed)]
    assert metrics[0] == metrics[1] and metrics[0].accuracy is not None


def test_evaluations_are_counted():
    assert make_metrics(state_of(LOG), ARGS, "validation").evaluations == 2
    without = make_metrics(state_of(LOG[:2]), ARGS, "validation")
    assert (without.evaluations, without.validation) == (0, None)
