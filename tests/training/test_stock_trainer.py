"""Our model, datasets and collator in transformers' own Trainer, and hyperparameter search in both Trainers."""

import json

import pytest
import torch
from torch.utils.data import Subset
from trainer_fixtures import at
from transformers import Trainer, TrainingArguments

from hf_cifar_resnet import CifarTrainer
from hf_cifar_resnet.data.dataset import collate
from hf_cifar_resnet.data.policies import Augmenter, build_policy


@pytest.fixture
def stock(make_model, tmp_path):
    """transformers' Trainer with our model on 24 images of noise."""
    images = [{"pixel_values": torch.randn(3, 8, 8), "labels": number % 3} for number in range(24)]

    def accuracy(prediction):
        return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}

    def make(**options):
        args = TrainingArguments(str(tmp_path), num_train_epochs=1, use_cpu=True, report_to="none", **options)
        return Trainer(
            make_model(num_labels=3), args, train_dataset=images, eval_dataset=images, compute_metrics=accuracy
        )

    return make


def test_evaluation_has_loss_labels_and_metrics(stock):
    trainer = stock()
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] > 0 and 0 <= metrics["eval_accuracy"] <= 1
    assert trainer.predict(trainer.eval_dataset).label_ids.tolist() == [number % 3 for number in range(24)]


def test_best_model_is_found(stock):
    trainer = stock(eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
    trainer.train()
    assert trainer.state.best_metric == pytest.approx(trainer.evaluate()["eval_loss"])


@pytest.mark.parametrize("options", [{}, {"remove_unused_columns": False}])
@pytest.mark.parametrize("collator", [collate, None])
def test_our_datasets(make_model, make_dataset, tmp_path, collator, options):
    """Every image is augmented anew in every epoch."""
    model, seen = make_model(), []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True)
    dataset = make_dataset(augmenter=Augmenter(build_policy("crop_flip", image_size=8), 0))
    args = TrainingArguments(str(tmp_path), num_train_epochs=3, use_cpu=True, report_to="none", **options)
    trainer = Trainer(model, args, data_collator=collator, train_dataset=Subset(dataset, range(32)))
    trainer.train()
    pixels = torch.cat(seen).flatten(1)
    assert pixels.dtype == torch.float32 and len(pixels) == 96
    assert len(torch.unique(pixels, dim=0)) > 80


@pytest.mark.parametrize("kind", [Trainer, CifarTrainer])
def test_hyperparameter_search(make_args, make_model, make_dataset, tmp_path, kind):
    """The trial with the largest learning rate wins, since it alone has one; each has its own checkpoints."""
    pytest.importorskip("optuna")
    rates = []
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 2}
    if kind is CifarTrainer:
        args = make_args(lr_scheduler_type="constant", load_best_model_at_end=True, save_total_limit=1, **options)
    else:
        args = TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none", **options)
    trainer = kind(
        model_init=lambda: make_model(),
        args=args,
        data_collator=collate,
        train_dataset=make_dataset(),
        eval_dataset=make_dataset(),
        compute_metrics=lambda prediction: {"top1": float((prediction.predictions.argmax(1) == 0).mean())},
        callbacks=[at("on_train_begin", lambda args, state: rates.append(args.learning_rate))],
    )
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {
            "learning_rate": trial.suggest_categorical("learning_rate", [0.05, 1e-9]),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8]),
        },
        compute_objective=lambda metrics: metrics["eval_loss"],
        n_trials=4,
        direction="minimize",
        sampler=make_grid(),
    )
    assert best.hyperparameters["learning_rate"] == 0.05
    assert sorted(rates) == [1e-9, 1e-9, 0.05, 0.05]
    assert {path.name for path in (tmp_path / "run").glob("run-*")} == {f"run-{number}" for number in range(4)}
    steps = [
        sorted(int(path.name[11:]) for path in (tmp_path / "run" / f"run-{n}").glob("checkpoint-*")) for n in range(4)
    ]
    assert all(found[-1] in (10, 20) for found in steps)
    if kind is CifarTrainer:  # the best and the last
        assert all(len(found) <= 2 for found in steps)


# What a trial may change, beside what the Trainer reads at every step.
CHANGES = [
    {"mixup_alpha": 0.5, "cutmix_share": 0.3},
    {"mixup_alpha": 0.0},
    {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0, "threshold": 0.9}},
    {"lr_scheduler_type": "constant"},
    {"lr_scheduler_type": "cosine_with_warmup"},
    {"early_stopping_patience": 1, "learning_rate": 1e-9},
    {"global_batch_size": 4, "lr_scaling": "linear"},
    {"per_device_train_batch_size": 4, "lr_scaling": "linear"},
    {"gradient_accumulation_steps": 2},
    {"metric_for_best_model": "loss"},
    {"ema_decay": 0.5},
    {"seed": 3},
]


@pytest.fixture
def make_searcher(make_args, make_model, make_dataset):
    """A [`CifarTrainer`] that makes its model anew for each training, with these arguments over those of the first."""

    def make(folder, **options):
        first = {
            "num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True,
            "metric_for_best_model": "top1", "mixup_alpha": 0.9, "lr_scheduler_type": "constant_with_warmup",
            "learning_rate": 0.01,
        }  # fmt: skip
        return CifarTrainer(
            model_init=lambda: make_model(torch.initial_seed()),
            args=make_args(folder, **first | options),
            train_dataset=make_dataset(),
            eval_dataset=make_dataset(24, seed=1),
        )

    return make


def weights_of(folder):
    """The bytes of the weights in the checkpoints, by their names."""
    return {path.parent.name: path.read_bytes() for path in folder.glob("checkpoint-*/*.safetensors")}


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_trial_trains_as_a_run_with_its_arguments(make_searcher, tmp_path, changes):
    """And the next one with its own: the first arguments again, where it changes nothing."""
    pytest.importorskip("optuna")
    spaces = [{}, changes, {}]
    trainer = make_searcher("search")
    trainer.hyperparameter_search(
        lambda trial: spaces[trial.number], lambda metrics: metrics["eval_loss"], n_trials=3, direction="minimize"
    )
    for number, folder, values in [(0, "first", {}), (1, "changed", changes), (2, "first", {})]:
        if not (tmp_path / folder).exists():
            make_searcher(folder, **values).train()
        found = tmp_path / "search" / f"run-{number}"
        assert weights_of(found) == weights_of(tmp_path / folder)
        [saved, expected] = (
            json.loads(max(place.glob("checkpoint-*/training_args.json")).read_text())
            for place in (found, tmp_path / folder)
        )
        saved["output_dir"] = expected["output_dir"]
        assert saved == expected
    # As transformers' documentation trains with the best arguments in the end.
    for name, value in changes.items():
        setattr(trainer.args, name, value)
    trainer.train()
    assert weights_of(tmp_path / "search") == weights_of(tmp_path / "changed")


def test_trial_with_a_value_that_cannot_work_is_refused(make_searcher):
    pytest.importorskip("optuna")
    with pytest.raises(ValueError, match="early_stopping_patience must be above 0, got 0"):
        make_searcher("search").hyperparameter_search(lambda trial: {"early_stopping_patience": 0}, n_trials=1)


def make_grid():
    from optuna.samplers import GridSampler

    return GridSampler({"learning_rate": [0.05, 1e-9], "per_device_train_batch_size": [4, 8]}, seed=0)
