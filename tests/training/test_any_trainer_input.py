"""CifarTrainer takes what transformers' Trainer takes."""

import logging
import os
import re
import signal
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset
from trainer_fixtures import at
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

import hf_cifar_resnet
from hf_cifar_resnet import CifarResNetForImageClassification, CifarTrainer, CifarTrainingArguments
from hf_cifar_resnet.data.dataset import collate
from hf_cifar_resnet.data.policies import Augmenter, build_policy


def make_resnet():
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=6)
    return ResNetForImageClassification(config)


def make_vit():
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8,
                       patch_size=4, num_labels=6)  # fmt: skip
    return ViTForImageClassification(config)


@pytest.fixture
def augmented(make_dataset):
    return make_dataset(augmenter=Augmenter(build_policy("crop_flip", image_size=8), 0))


# Arguments


@pytest.mark.parametrize("evaluate", [True, False])
def test_no_arguments(make_model, make_dataset, tmp_path, monkeypatch, evaluate):
    monkeypatch.chdir(tmp_path)
    trainer = CifarTrainer(
        make_model(), train_dataset=make_dataset(), eval_dataset=make_dataset() if evaluate else None
    )
    assert isinstance(trainer.args, CifarTrainingArguments) and trainer.args.output_dir == "tmp_trainer"
    assert trainer.args.eval_strategy == ("epoch" if evaluate else "no")


def test_plain_arguments_keep_their_values(make_model, make_dataset, tmp_path):
    args = TrainingArguments(
        str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=4, learning_rate=0.5, use_cpu=True,
        lr_scheduler_type="constant", label_smoothing_factor=0.2, hub_token="hf_secret",
    )  # fmt: skip
    before = args.to_dict()
    trainer = CifarTrainer(make_model(), args, train_dataset=make_dataset())
    trainer.train()
    assert args.to_dict() == before
    same = ("per_device_train_batch_size", "learning_rate", "label_smoothing_factor", "weight_decay", "hub_token",
            "eval_strategy", "save_strategy", "metric_for_best_model", "bf16", "optim")  # fmt: skip
    assert [getattr(trainer.args, name) for name in same] == [getattr(args, name) for name in same]
    assert trainer.state.global_step == 2


@dataclass
class OwnArguments(TrainingArguments):
    """Those of a program with an argument of its own."""

    color: str = "red"


def test_arguments_of_a_subclass(make_model, make_dataset, tmp_path):
    args = OwnArguments(str(tmp_path / "run"), max_steps=1, learning_rate=0.5, use_cpu=True, color="blue")
    trainer = CifarTrainer(make_model(), args, train_dataset=make_dataset())
    trainer.train()
    assert (trainer.args.learning_rate, trainer.args.color) == (0.5, "blue")


def test_evaluation_of_the_loss_alone(make_model, make_dataset, tmp_path):
    args = TrainingArguments(str(tmp_path / "run"), prediction_loss_only=True, use_cpu=True)
    trainer = CifarTrainer(make_model(), args, train_dataset=make_dataset(), eval_dataset=make_dataset())
    assert trainer.evaluate()["eval_loss"] > 0


def test_arguments_are_not_changed(make_args, make_model, make_dataset):
    args = make_args(
        bf16=None, save_total_limit=1, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True,
        accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    )  # fmt: skip
    before = args.to_dict()
    trainer = CifarTrainer(make_model(), args, train_dataset=make_dataset(), eval_dataset=make_dataset())
    trainer.train()
    assert args.to_dict() == before
    assert trainer.args.output_dir == args.output_dir and trainer.args.learning_rate == args.learning_rate


# Models


@pytest.mark.parametrize("make", [make_resnet, make_vit])
def test_other_models(make_trainer, make, tmp_path):
    trainer = make_trainer(
        model=make(), num_train_epochs=2, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True,
        ema_decay=0.5, mixup_alpha=0.2, gradient_accumulation_steps=2, bf16=None,
    )  # fmt: skip
    trainer.train()
    assert {"eval_loss", "eval_top1"} <= set(trainer.evaluate())
    trainer.save_model()
    loaded = type(trainer.model).from_pretrained(tmp_path / "run")
    torch.testing.assert_close(dict(loaded.state_dict()), dict(trainer.model.state_dict()))


def test_compiled_model_is_saved_under_its_own_names(make_trainer, make_model, tmp_path):
    model = make_model()
    names = set(model.state_dict())
    saving = {"save_strategy": "steps", "save_steps": 2, "torch_compile_backend": "eager", "max_steps": 4}
    trainer = make_trainer(model=torch.compile(model, backend="eager"), ema_decay=0.5, **saving)
    trainer.train()
    folder = tmp_path / "run" / "checkpoint-2"
    assert set(load_file(folder / "model.safetensors")) == set(load_file(folder / "ema.safetensors")) == names
    trainer.save_model()
    loaded = CifarResNetForImageClassification.from_pretrained(tmp_path / "run")
    torch.testing.assert_close(dict(loaded.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    resumed = make_trainer(model=torch.compile(make_model(1), backend="eager"), ema_decay=0.5, **saving)
    resumed.train(resume_from_checkpoint=str(folder))
    torch.testing.assert_close(dict(resumed.model.state_dict()), dict(model.state_dict()), rtol=0, atol=0)


def test_model_of_several_labels_has_its_own_loss(make_trainer):
    model = make_vit()
    model.config.problem_type = "multi_label_classification"
    images = [{"pixel_values": torch.randn(3, 8, 8), "labels": torch.tensor([1.0, 0, 0, 1, 0, 0])} for _ in range(9)]
    trainer = make_trainer(model=model, train=images, evaluate=images)
    trainer.train()
    expected = nn.functional.binary_cross_entropy_with_logits
    with torch.no_grad():
        logits = model(torch.stack([image["pixel_values"] for image in images])).logits
    assert trainer.evaluate()["eval_loss"] == pytest.approx(
        expected(logits, torch.stack([images[0]["labels"]] * 9)).item()
    )


# Datasets


def subset(dataset):
    return Subset(dataset, range(5, 37))


def concatenated(dataset):
    return ConcatDataset([dataset, Subset(dataset, [3, 5])])


def samples(dataset):
    return [dataset[number] for number in range(20)]


def hugging_face_dataset(dataset):
    from datasets import Dataset

    def transform(rows):
        pixels = [dataset.without_normalization()[number]["pixel_values"] for number in rows["number"]]
        return {"pixel_values": [pixel.permute(2, 0, 1).float() / 255 for pixel in pixels], "label": rows["label"],
                "name": ["image"] * len(pixels)}  # fmt: skip

    labels = dataset.labels[:20].tolist()
    return Dataset.from_dict({"number": list(range(20)), "label": labels}).with_transform(transform)


KINDS = [subset, concatenated, samples, hugging_face_dataset]


@pytest.mark.parametrize("kind", KINDS)
def test_other_datasets(make_trainer, make_dataset, augmented, kind):
    train, evaluate = kind(augmented), kind(make_dataset(seed=1))
    trainer = make_trainer(
        train=train, evaluate=evaluate, num_train_epochs=3, eval_strategy="epoch", save_strategy="epoch",
        load_best_model_at_end=True, learning_rate=0.01, gradient_accumulation_steps=2,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 3 * -(-len(train) // 8)
    batch = next(iter(DataLoader(evaluate, len(evaluate), collate_fn=collate)))
    with torch.no_grad():
        logits = trainer.model.eval()(batch["pixel_values"]).logits
    loss = nn.functional.cross_entropy(logits.double(), batch["labels"]).item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("kind", [subset, concatenated, lambda dataset: dataset])
def test_run_on_a_part_of_a_dataset_resumes_to_the_same_bits(make_trainer, make_model, augmented, kind):
    """Within an epoch, with its augmentation."""
    options = {"save_strategy": "steps", "save_steps": 7, "num_train_epochs": 2, "learning_rate": 0.01}
    whole = make_trainer(train=kind(augmented), model=make_model(dropout=0.2), **options)
    whole.train()
    resumed = make_trainer(train=kind(augmented), model=make_model(dropout=0.2), **options)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-7")
    torch.testing.assert_close(dict(resumed.model.state_dict()), dict(whole.model.state_dict()), rtol=0, atol=0)


def test_training_leaves_the_dataset_as_it_was(make_trainer, augmented):
    before = dict(vars(augmented))
    make_trainer(train=subset(augmented)).train()
    assert vars(augmented).keys() == before.keys() and all(vars(augmented)[name] is before[name] for name in before)


# The loss


class Weighted(CifarTrainer):
    """As transformers' documentation shows."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        seen.append((inputs["pixel_values"], labels))
        loss = nn.functional.cross_entropy(outputs.get("logits"), labels, weight=WEIGHTS)
        return (loss, outputs) if return_outputs else loss


WEIGHTS = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
seen: list[tuple[torch.Tensor, torch.Tensor]] = []


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize("mixup_alpha", [0.0, 1.0])
def test_overridden_loss_gets_normalised_and_mixed_images(make_args, make_model, make_dataset, mixup_alpha):
    seen.clear()
    dataset, args = make_dataset(), make_args(mixup_alpha=mixup_alpha, eval_strategy="epoch")
    trainer = Weighted(make_model(), args, train_dataset=dataset, eval_dataset=dataset)
    trainer.train()
    assert len(seen) == 5
    assert all(pixels.dtype == torch.float32 and pixels.shape == (8, 3, 8, 8) for pixels, _ in seen)
    assert all(labels.ndim == (2 if mixup_alpha else 1) for _, labels in seen)
    if not mixup_alpha:
        own = {image.numpy().tobytes() for image in dataset.__getitems__(range(40))["pixel_values"]}
        assert {image.contiguous().numpy().tobytes() for pixels, _ in seen for image in pixels} == own
    assert min(logged(trainer, "accuracy")) >= 0 and len(logged(trainer, "accuracy")) == 5


def test_overridden_loss_is_that_of_an_evaluation_with_other_metrics(make_args, make_model, make_dataset):
    dataset = make_dataset()
    trainer = Weighted(make_model(), make_args(), train_dataset=dataset, eval_dataset=dataset,
                       compute_metrics=lambda prediction: {"mean": float(prediction.predictions.mean())})  # fmt: skip
    batch = dataset.__getitems__(range(40))
    with torch.no_grad():
        logits = trainer.model.eval()(batch["pixel_values"]).logits
    metrics = trainer.evaluate()
    expected = nn.functional.cross_entropy(logits, batch["labels"], weight=WEIGHTS).item()
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-5) and "eval_mean" in metrics


def test_given_loss_function_is_called(make_args, make_model, make_dataset):
    """In every step, and divided by all images of the step, though two batches make up each."""
    calls = []

    def loss(outputs, labels, num_items_in_batch=None):
        calls.append((len(labels), int(num_items_in_batch)))
        return nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    options = {"gradient_accumulation_steps": 2, "learning_rate": 0.1, "lr_scheduler_type": "constant", "optim": "sgd"}
    models = [make_model(), make_model()]
    for model, given in zip(models, (loss, None), strict=True):
        args = make_args(label_smoothing_factor=0.0, **options)
        CifarTrainer(model, args, train_dataset=make_dataset(44), compute_loss_func=given).train()
    assert calls == [(4, 8)] * 10 + [(4, 4)]
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_classes_are_weighed_as_the_readme_says(make_args, make_model, make_dataset):
    text = (Path(hf_cifar_resnet.__file__).parent / "training" / "README.md").read_text(encoding="utf-8")
    [program] = [part for part in re.findall("```python\n(.*?)```", text, re.S) if "def weighted_loss" in part]
    names = {}
    exec(program.replace("100", "6").replace("[7]", "[2]"), names)
    dataset = make_dataset()
    options = {"global_batch_size": 40, "learning_rate": 0.1, "lr_scheduler_type": "constant", "optim": "sgd"}
    model, reference = make_model(), make_model().train()
    args = make_args(weight_decay=0, max_grad_norm=0, gradient_accumulation_steps=1, **options)
    CifarTrainer(model, args, train_dataset=dataset, compute_loss_func=names["weighted_loss"]).train()
    batch = dataset.__getitems__(range(40))
    weights = torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0, 1.0])
    shares = 0.9 * nn.functional.one_hot(batch["labels"], 6) + 0.1 / 6
    logs = reference(batch["pixel_values"]).logits.log_softmax(dim=1)
    (-(shares * weights * logs).sum() / 40).backward()
    trained = dict(model.named_parameters())
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(trained[name], parameter - 0.1 * parameter.grad, rtol=1e-4, atol=1e-5)


def test_frozen_modules_stay_in_evaluation_mode(make_trainer, make_model):
    model = make_model()
    frozen = model.resnet.backbone.layer1.requires_grad_(False).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = []
    callbacks = [at("on_step_end", lambda args, state: modes.append((frozen.training, model.training)))]
    trainer = make_trainer(model=model, learning_rate=0.1, eval_strategy="steps", eval_steps=2, callbacks=callbacks)
    trainer.train()
    assert set(modes) == {(False, True)}
    changed = {name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}
    assert changed and not [name for name in changed if name.startswith("resnet.backbone.layer1.")]


# The process


def process_state():
    loggers = {name: (item.level, item.disabled, item.propagate, list(item.handlers))
               for name, item in logging.root.manager.loggerDict.items()
               if isinstance(item, logging.Logger) and not name.startswith(("hf_cifar_resnet", "asyncio"))}  # fmt: skip
    cudnn = torch.backends.cudnn
    return {
        "cudnn": (cudnn.benchmark, cudnn.deterministic, cudnn.enabled),
        "lomo": sys.modules.get("lomo_optim", "not there"),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
        "filters": list(warnings.filters),
        "root logger": (logging.root.level, list(logging.root.handlers)),
        "loggers": loggers,
    }


def test_construction_leaves_the_process_alone(make_args, make_model, make_dataset, monkeypatch):
    monkeypatch.delitem(sys.modules, "lomo_optim", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    arguments = make_model(), make_args(torch_compile=False), make_dataset()
    CifarTrainer(arguments[0], arguments[1], train_dataset=arguments[2])  # imports what it needs
    monkeypatch.delitem(sys.modules, "lomo_optim", raising=False)
    before = process_state()
    CifarTrainer(arguments[0], arguments[1], train_dataset=arguments[2], callbacks=[])
    after = process_state()
    assert {name for name in before if before[name] != after[name]} == set()


# Callbacks


def test_callbacks_are_called_in_the_order_of_their_priority(make_trainer):
    called = []

    def make(name, priority):
        kind = type(at("on_step_end", lambda args, state: called.append(name)))
        callback = kind()
        if priority is not None:
            callback.priority = priority
        return callback

    trainer = make_trainer(
        callbacks=[make("low", -3), make("first", 0), make("high", 7), make("second", None)], max_steps=1
    )
    trainer.add_callback(make("higher", 8))
    trainer.train()
    assert called == ["higher", "high", "first", "second", "low"]


def test_train_dataset_without_a_length_is_refused(make_args, make_model):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(ValueError, match="train_dataset must have a length"):
        CifarTrainer(make_model(), make_args(max_steps=1), train_dataset=Stream())


def test_push_needs_a_callback_that_pushes(make_args, make_model, make_dataset):
    with pytest.raises(ValueError, match="push_to_hub needs the run record"):
        CifarTrainer(make_model(), make_args(push_to_hub=True), train_dataset=make_dataset())
