"""Our model, datasets and collator in transformers' own Trainer, and hyperparameter search in both Trainers."""

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


def make_grid():
    from optuna.samplers import GridSampler

    return GridSampler({"learning_rate": [0.05, 1e-9], "per_device_train_batch_size": [4, 8]}, seed=0)
