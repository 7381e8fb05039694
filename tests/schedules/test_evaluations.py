"""Schedules that react to evaluations, epochs and the end of the warmup: plateau, greedy and one's own."""

import io
import math
from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers.optimization import GreedyLR

from hf_cifar_resnet import schedules
from hf_cifar_resnet.schedules import ScheduleCallback
from hf_cifar_resnet.schedules.evaluations import GreedyCallback, PlateauCallback

PEAK, STEPS, EVERY = 0.05, 20, 5  # EVERY: steps in an epoch


# Plateau


def make_optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def rates_after(values, name, make_callback, args):
    """The LR after each evaluation, where the run is saved and resumed after 20 of them."""
    rates, schedule, callback = [], schedules.create(name, make_optimizer(), 1000, 0), make_callback()
    for number, value in enumerate(values):
        if number == 20:
            stream = io.BytesIO()
            torch.save(schedule.state_dict(), stream)
            stream.seek(0)
            schedule, callback = schedules.create(name, make_optimizer(), 1000, 0), make_callback()
            schedule.load_state_dict(torch.load(stream, weights_only=True))
        schedule.optimizer.step()
        schedule.step()
        callback.after_evaluation(schedule, {f"eval_{args.metric_for_best_model}": value}, args)
        rates.append(schedule.get_last_lr()[0])
        assert rates[-1] == schedule.optimizer.param_groups[0]["lr"]
    return rates


# With ties, jumps and NaN.
VALUES = [
    *[1.0, 0.9, 0.9, 0.8995, 1.1, math.nan, 0.8, 0.8, 0.8, 0.8, 0.79, 0.7, 0.77, 0.77, 0.77, 0.77, 0.6, 0.6, 0.6, 0.6],
    *[0.6, 0.6, 0.6, 0.54, 0.54, 0.6, 0.6, 0.6, 0.6, 0.6, 0.53, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.4],
]
RULES = {
    "reduce_lr_on_plateau": (PlateauCallback, partial(ReduceLROnPlateau, threshold_mode="rel", eps=0)),
    "greedy": (GreedyCallback, GreedyLR),
}


@pytest.mark.parametrize("metric, mode", [("loss", "min"), ("top1", "max")])
@pytest.mark.parametrize(
    "name, options",
    [
        ("reduce_lr_on_plateau", {"factor": 0.5, "patience": 1, "threshold": 1e-3, "cooldown": 1, "min_lr": 0.01}),
        ("reduce_lr_on_plateau", {"factor": 0.9, "patience": 0, "threshold": 0.1}),
        ("greedy", {"factor": 0.7, "patience": 2, "min_lr": 0.02, "max_lr": 0.3, "reset_start": 3}),
        ("greedy", {"factor": 0.7, "patience": 2, "smooth": True, "window_size": 3, "cooldown": 1, "warmup": 1}),
    ],
)
def test_rates_are_those_of_torch_and_transformers(make_args, metric, mode, name, options):
    callback, scheduler = RULES[name]
    reference, expected = scheduler(make_optimizer(), mode=mode, **options), []
    for value in VALUES:
        reference.step(value)
        expected.append(reference.optimizer.param_groups[0]["lr"])
    rates = rates_after(VALUES, name, partial(callback, **options), make_args(metric_for_best_model=metric))
    assert rates == pytest.approx(expected, rel=1e-12) and len(set(rates)) > 3


PLATEAU, WITH_WARMUP = "reduce_lr_on_plateau", "reduce_lr_on_plateau_with_warmup"
SCRIPTS = [
    # A rising accuracy is no plateau, and the first cut comes after `patience` + 1 bad evaluations.
    (PLATEAU, "top1", {"patience": 1}, 0, [0.1, 0.2, 0.2, 0.2, 0.3, 0.3, 0.1], [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
    (WITH_WARMUP, "loss", {"patience": 1}, 0, [3, 2, 2, 2, 1, 1, 3], [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
    # Evaluations before the end of the warmup are not counted.
    (PLATEAU, "loss", {"patience": 0}, 3, [1, 1, 1, 1, 1], [1 / 3, 2 / 3, 1, 0.5, 0.25]),
    (WITH_WARMUP, "top1", {"patience": 0}, 3, [0.9, 0.9, 0.1, 0.2, 0.1], [1 / 3, 2 / 3, 1, 1, 0.5]),
]  # fmt: skip


@pytest.mark.parametrize("name, metric, kwargs, warmup, values, scales", SCRIPTS)
def test_plateau_cuts_after_bad_evaluations(rates_used, tmp_path, name, metric, kwargs, warmup, values, scales):
    def train(values, resume=None):
        script = iter(values)
        return rates_used(
            resume,
            lr_scheduler_type=name,
            lr_scheduler_kwargs=kwargs,
            warmup_steps=warmup,
            learning_rate=PEAK,
            metric_for_best_model=metric,
            compute_metrics=lambda prediction: {metric: next(script)},
            global_batch_size=40,
            num_train_epochs=len(values) if resume is None else len(scales),
            eval_strategy="epoch",
            save_strategy="epoch",
        )

    # One step an epoch: step t uses what evaluation t left. By default `*_with_warmup` warms up for one step.
    first = 0 if warmup or name.endswith("_with_warmup") else 1
    expected = [PEAK * scale for scale in [first, *scales[:-1]]]
    steps, trainer = train(values)
    assert steps.rates == pytest.approx(expected)
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(PEAK * scales[-1])
    rest, resumed = train(values[2:], resume=str(tmp_path / "run" / "checkpoint-2"))
    assert rest.rates == steps.rates[2:]
    assert resumed.lr_scheduler.memory == trainer.lr_scheduler.memory


# A schedule of one's own


class HalveEveryEvaluation(ScheduleCallback):
    def after_evaluation(self, schedule, metrics, args):
        schedule.rescale(schedule.scale / 2)


class DropAfterWarmup(ScheduleCallback):
    def after_warmup(self, schedule, args):
        schedule.memory["calls"] = schedule.memory.get("calls", 0) + 1
        schedule.rescale(schedule.scale / 10)


class EverySecondEpoch(ScheduleCallback):
    def after_epoch(self, schedule, epoch, args):
        schedule.memory["epochs"] = schedule.memory.get("epochs", 0) + 1
        assert epoch == schedule.memory["epochs"]
        if schedule.memory["epochs"] % 2 == 0:
            schedule.rescale(0.3)


OWN = [
    (HalveEveryEvaluation, lambda t: 0.5 ** (t // EVERY), {}),
    (DropAfterWarmup, lambda t: 1 if t < 6 else 0.1, {"calls": 1}),
    (EverySecondEpoch, lambda t: 1 if t < 2 * EVERY else 0.3, {"epochs": 4}),
]


@pytest.mark.parametrize("kind, scale, memory", OWN)
def test_own_schedule_scales_the_chosen_one(rates_used, tmp_path, kind, scale, memory):
    stopped_at = 12
    options = {
        "lr_scheduler_type": "cosine",
        "warmup_steps": 6,
        "learning_rate": PEAK,
        "num_train_epochs": STEPS // EVERY,
        "eval_strategy": "epoch",
        "save_strategy": "steps",
        "save_steps": stopped_at,
    }
    cosine = [t / 6 if t < 6 else (1 + math.cos(math.pi * (t - 6) / (STEPS - 6))) / 2 for t in range(STEPS)]
    steps, trainer = rates_used(callbacks=[kind()], **options)
    assert steps.rates == pytest.approx([PEAK * scale(t) * share for t, share in enumerate(cosine)])
    assert [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry] == steps.rates
    checkpoint = str(tmp_path / "run" / f"checkpoint-{stopped_at}")
    rest, resumed = rates_used(resume=checkpoint, callbacks=[kind()], **options)
    assert rest.rates == steps.rates[stopped_at:]
    assert resumed.lr_scheduler.memory == trainer.lr_scheduler.memory == memory


def test_own_schedule_ignores_scoring_before_and_after_training(make_trainer):
    trainer = make_trainer(callbacks=[HalveEveryEvaluation()], lr_scheduler_type="constant")
    trainer.evaluate()
    trainer.train()
    trainer.evaluate(metric_key_prefix="test")
    assert trainer.lr_scheduler.scale == 1


def test_own_schedule_cannot_scale_one_cycle(make_trainer):
    trainer = make_trainer(callbacks=[HalveEveryEvaluation()], lr_scheduler_type="one_cycle")
    with pytest.raises(ValueError, match="one_cycle .* cannot be scaled"):
        trainer.train()
