import copy
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from hf_cifar_resnet.data.dataset import ImageDataset
from hf_cifar_resnet.data.policies import Augmenter, build_policy
from hf_cifar_resnet.runs.events import EventReader
from hf_cifar_resnet.runs.history import History
from hf_cifar_resnet.training.arguments import CifarTrainingArguments
from hf_cifar_resnet.training.callbacks import RunEventsCallback
from hf_cifar_resnet.training.trainer import CifarTrainer

PLAIN_SGD = {"optim": "sgd", "weight_decay": 0, "max_grad_norm": 0, "lr_scheduler_type": "constant"}


class Remembering(ImageDataset):
    """Writes down every position that is fetched."""

    def __init__(self, *args):
        super().__init__(*args)
        self.positions = []

    def __getitems__(self, positions):
        self.positions += positions
        return super().__getitems__(positions)


def exact_scores(model, dataset):
    """Mean loss and top-1 of the whole set in one batch."""
    batch = dataset.__getitems__(range(len(dataset)))
    with torch.no_grad():
        logits = copy.deepcopy(model).eval()(batch["pixel_values"]).logits.double()
    top1 = (logits.argmax(1) == batch["labels"]).double().mean()
    return cross_entropy(logits, batch["labels"]).item(), top1.item()


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def scripted(values, metric="top1"):
    script = iter(values)
    return lambda prediction: {metric: next(script)}


# The optimizer


@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd"])
def test_only_matrices_decay(make_trainer, optimizer):
    """Where every gradient is zero, a step moves what decays, and that is the convolutions and the classifier."""
    trainer = make_trainer(optim=optimizer, weight_decay=0.1, learning_rate=0.5, lr_scheduler_type="constant")
    before = copy.deepcopy(trainer.model)
    trainer.create_optimizer()
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    after = dict(trainer.model.named_parameters())
    moved = {name for name, old in before.named_parameters() if not after[name].equal(old)}
    modules = dict(before.named_modules())
    layers = {name for name, layer in modules.items() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))}
    assert moved == {f"{name}.weight" for name in layers}


@pytest.mark.parametrize("count, parts", [(40, 1), (40, 2), (40, 5), (37, 1), (37, 2), (9, 5)])
def test_step_is_the_mean_over_its_images(make_trainer, make_dataset, count, parts):
    """Also where the last of the accumulated batches is smaller than the others."""
    dataset, pixels = make_dataset(count, kind=Remembering), make_dataset(count)
    trainer = make_trainer(
        train=dataset,
        global_batch_size=40,
        gradient_accumulation_steps=parts,
        learning_rate=0.1,
        label_smoothing_factor=0.1,
        **PLAIN_SGD,
    )
    reference = copy.deepcopy(trainer.model).train()
    trainer.train()
    assert sorted(dataset.positions) == list(range(count))
    loss, size = 0, 40 // parts
    for start in range(0, count, size):
        batch = pixels.__getitems__(dataset.positions[start : start + size])
        logits = reference(batch["pixel_values"]).logits
        loss += cross_entropy(logits, batch["labels"], label_smoothing=0.1, reduction="sum") / count
    loss.backward()
    assert logged(trainer, "loss") == pytest.approx([loss.item()], rel=1e-5)
    trained = dict(trainer.model.named_parameters())
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(trained[name], parameter - 0.1 * parameter.grad, rtol=1e-4, atol=1e-6)


# Losses and scores


@pytest.mark.parametrize("batch_size, smoothing, drop_last", [(1, 0.0, False), (7, 0.5, False), (16, 0.5, True)])
def test_evaluation_is_exact(make_trainer, make_dataset, batch_size, smoothing, drop_last):
    dataset = make_dataset(seed=1)
    trainer = make_trainer(
        evaluate=dataset,
        per_device_eval_batch_size=batch_size,
        label_smoothing_factor=smoothing,
        dataloader_drop_last=drop_last,
        learning_rate=0.01,
    )
    trainer.train()
    scores, (loss, top1) = trainer.evaluate(), exact_scores(trainer.model, dataset)
    assert scores["eval_loss"] == pytest.approx(loss, abs=1e-6)
    assert scores["eval_top1"] == top1


@pytest.mark.parametrize("count, prefix", [(3, "other"), (41, "test")])
def test_another_dataset_under_its_own_name_and_normalisation(make_trainer, make_dataset, count, prefix):
    other = make_dataset(count, seed=2)
    other.mean, other.std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    trainer = make_trainer(per_device_eval_batch_size=16)
    scores, (loss, top1) = trainer.evaluate(other, metric_key_prefix=prefix), exact_scores(trainer.model, other)
    assert scores[f"{prefix}_loss"] == pytest.approx(loss, abs=1e-6)
    assert scores[f"{prefix}_top1"] == top1
    assert not [name for name in scores if name.startswith("eval_")]


def test_broken_model_scores_nothing(make_trainer, make_model):
    model = make_model()
    torch.nn.init.constant_(model.classifier.bias, torch.nan)
    scores = make_trainer(model=model).evaluate()
    assert (scores["eval_top1"], scores["eval_top5"]) == (0, 0)
    assert np.isnan(scores["eval_loss"])


# What is logged and printed


@pytest.mark.parametrize(
    "logging_steps, batch_size, accumulation, images", [(1, 8, 1, 8), (2, 8, 1, 16), (5, 8, 2, 40), (3, 16, 1, 40)]
)
def test_train_accuracy_is_that_of_the_images_since_the_last_log(
    make_trainer, make_dataset, logging_steps, batch_size, accumulation, images
):
    """With a learning rate of nearly nothing, so that one model has seen all batches."""
    dataset, pixels = make_dataset(kind=Remembering), make_dataset()
    trainer = make_trainer(
        train=dataset,
        logging_steps=logging_steps,
        global_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-12,
        num_train_epochs=2,
    )
    model, size = copy.deepcopy(trainer.model).train(), batch_size // accumulation
    trainer.train()
    expected = []
    for start in range(0, 80 - images + 1, images):
        window = dataset.positions[start : start + images]
        batches = [pixels.__getitems__(window[i : i + size]) for i in range(0, images, size)]
        right = [model(b["pixel_values"]).logits.argmax(1) == b["labels"] for b in batches]
        expected.append(torch.cat(right).double().mean().item())
    assert logged(trainer, "accuracy") == pytest.approx(expected)


def test_speed_is_that_of_all_images(make_trainer):
    trainer = make_trainer(logging_steps=2, num_train_epochs=4)
    trainer.train()
    seconds = np.diff([0, *logged(trainer, "seconds")])
    assert (seconds > 0).all()
    assert np.array(logged(trainer, "images_per_second")) * seconds == pytest.approx(16)


class Slow(ImageDataset):
    """Takes 30 ms a batch."""

    def __getitems__(self, positions):
        time.sleep(0.03)
        return super().__getitems__(positions)


@pytest.mark.parametrize("kind, least", [(ImageDataset, 0), (Slow, 5 * 0.03)])
def test_time_spent_waiting_for_data(make_trainer, make_dataset, kind, least):
    trainer = make_trainer(train=make_dataset(kind=kind), logging_strategy="epoch", num_train_epochs=2)
    trainer.train()
    rows = History.from_log(trainer.state.log_history).to_dicts()
    seconds = np.diff([0, *(row["train_seconds"] for row in rows)])
    waited = [row["data_wait"] for row in rows] * seconds
    assert len(rows) == 2 and (waited < seconds).all() and (waited > least).all()


def test_time_of_several_evaluations_is_counted_once(make_trainer, make_dataset):
    trainer = make_trainer(
        evaluate={"one": make_dataset(1000, seed=1), "other": make_dataset(1000, seed=2)},
        metric_for_best_model="one_top1",
        num_train_epochs=2,
        global_batch_size=40,
        eval_strategy="epoch",
    )
    trainer.train()
    assert np.diff([0, *logged(trainer, "seconds")]).min() > 0


LINE = re.compile(
    r"epoch +(?P<epoch>[\d.]+)/(?P<epochs>[\d.]+)  loss (?P<loss>[\d.]+)  train +(?P<train>[\d.]+)%  "
    r"lr (?P<lr>\S+)  (?P<speed>[\d,]+) img/s  (?P<wait>[\d.]+)% waiting for data  "
    r"\| eval loss (?P<eval>[\d.]+)  top-1 +(?P<top1>[\d.]+)%  "
    r"top-5 +(?P<top5>[\d.]+)%(?P<more>.*)"
)


def test_line_of_an_epoch(make_trainer, capsys):
    trainer = make_trainer(logging_strategy="epoch", eval_strategy="epoch", num_train_epochs=3, learning_rate=0.01)
    trainer.train()
    lines = [LINE.fullmatch(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["epoch"], line["epochs"], line["more"]) for line in lines] == [(str(n), "3", "") for n in (1, 2, 3)]
    for name, key, scale, digits in [
        ("loss", "loss", 1, 4),
        ("train", "accuracy", 100, 2),
        ("eval", "eval_loss", 1, 4),
        ("top1", "eval_top1", 100, 2),
        ("top5", "eval_top5", 100, 2),
    ]:
        assert [line[name] for line in lines] == [f"{scale * value:.{digits}f}" for value in logged(trainer, key)]
    assert [float(line["lr"]) for line in lines] == pytest.approx(logged(trainer, "learning_rate"), rel=5e-3)
    assert all(int(line["speed"].replace(",", "")) > 0 for line in lines)
    assert [line["wait"] for line in lines] == [f"{100 * share:.1f}" for share in logged(trainer, "data_wait")]


def test_epoch_line_reports_a_cut(make_trainer, capsys):
    trainer = make_trainer(
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0},
        learning_rate=0.1,
        compute_metrics=scripted([0.1, 0.1, 0.2, 0.2]),
        logging_strategy="epoch",
        eval_strategy="epoch",
        num_train_epochs=4,
    )
    trainer.train()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("LR ")[2] for line in lines] == ["", "cut to 0.05", "", "cut to 0.025"]


def test_line_without_evaluation(make_trainer, capsys):
    make_trainer(logging_strategy="epoch").train()
    [line] = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"epoch +1/1  loss \S+  train +\S+%  lr \S+  \S+ img/s  \S+ waiting for data", line)


# What is saved


@pytest.mark.parametrize("metric, values, best", [("top1", [0.1, 0.4, 0.2, 0.3, 0.2], 2), ("loss", [3, 2, 1, 2, 3], 3)])
def test_best_model_is_kept_and_loaded(make_trainer, tmp_path, metric, values, best):
    trainer = make_trainer(
        metric_for_best_model=metric,
        compute_metrics=scripted(values, metric),
        num_train_epochs=5,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        learning_rate=0.01,
    )
    trainer.train()
    kept = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
    assert kept == {f"checkpoint-{5 * best}", "checkpoint-25"}
    saved, last = (load_file(tmp_path / "run" / f"checkpoint-{n}" / "model.safetensors") for n in (5 * best, 25))
    loaded = trainer.model.state_dict()
    assert all(loaded[name].equal(tensor) for name, tensor in saved.items())
    assert not all(loaded[name].equal(tensor) for name, tensor in last.items())


@pytest.mark.parametrize("limit", [None, -1, 0])
def test_all_checkpoints_stay(make_trainer, tmp_path, limit):
    make_trainer(save_strategy="steps", save_steps=1, save_total_limit=limit).train()
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {f"checkpoint-{n}" for n in range(1, 6)}


@pytest.mark.parametrize("before, after, refused", [(None, 2, True), (1, 2, True), (2, 2, False), (2, None, False)])
def test_early_stopping_of_a_resumed_run(make_trainer, tmp_path, before, after, refused):
    saving = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2,
              "load_best_model_at_end": True, "compute_metrics": lambda prediction: {"top1": 0.5}}  # fmt: skip
    make_trainer(early_stopping_patience=before, max_steps=2, **saving).train()
    resumed = make_trainer(early_stopping_patience=after, max_steps=5, **saving)
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    if refused:
        with pytest.raises(ValueError, match=f"early_stopping_patience must stay {before}, got {after}"):
            resumed.train(resume_from_checkpoint=checkpoint)
    else:
        resumed.train(resume_from_checkpoint=checkpoint)
        assert resumed.state.global_step == 5


def test_early_stopping_by_argument(make_trainer):
    trainer = make_trainer(
        early_stopping_patience=2,
        compute_metrics=scripted([0.1, 0.3, 0.3, 0.2, 0.9, 0.9]),
        num_train_epochs=6,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
    )
    trainer.train()
    assert (trainer.state.epoch, trainer.state.best_global_step) == (4, 10)


# Repetition


def test_same_seed_same_weights(make_trainer, make_model, make_dataset):
    """With dropout and augmentation; every epoch has each image once."""

    def train(seed):
        dataset = make_dataset(
            kind=Remembering, augmenter=Augmenter(build_policy("crop_flip_jitter", image_size=8), seed)
        )
        options = {"learning_rate": 0.01, "num_train_epochs": 2, "seed": seed}
        trainer = make_trainer(model=make_model(dropout=0.2), train=dataset, **options)
        trainer.train()
        assert sorted(dataset.positions[:40]) == list(range(40))
        assert sorted(dataset.positions[40:]) == list(range(40))
        return torch.cat([tensor.flatten() for tensor in trainer.model.state_dict().values()])

    first, again, other = map(train, (1, 1, 2))
    assert first.equal(again) and not first.equal(other)


# With little said


@pytest.mark.parametrize("options, steps", [({}, 1), ({"global_batch_size": 20, "gradient_accumulation_steps": 2}, 2)])
def test_plain_arguments(make_model, make_dataset, tmp_path, options, steps):
    args = CifarTrainingArguments(output_dir=str(tmp_path), use_cpu=True, num_train_epochs=1, **options)
    trainer = CifarTrainer(model=make_model(), args=args, train_dataset=make_dataset(), eval_dataset=make_dataset())
    trainer.train()
    assert trainer.state.global_step == steps
    assert {"eval_loss", "eval_top1", "eval_top5"} <= set(trainer.state.log_history[-2])
    assert Path(trainer.state.best_model_checkpoint).name == f"checkpoint-{steps}"


def test_model_of_synchronised_batchnorm_is_saved_with_the_ordinary_one(make_model, tmp_path):
    """torch has the synchronised one for GPUs alone; what is saved does not tell them apart."""
    model, images = make_model(), torch.randn(4, 3, 8, 8)
    model(images)  # running statistics that are not those of the start
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules())
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in loaded.modules())
    torch.testing.assert_close(dict(loaded.state_dict()), state, rtol=0, atol=0)


def test_images_to_evaluate_need_no_workers(make_trainer):
    """They are ready sooner than workers, which take seconds to start beside a GPU."""
    trainer = make_trainer(dataloader_num_workers=1)
    assert trainer.get_train_dataloader().num_workers == 1
    assert trainer.get_eval_dataloader().num_workers == 0


@pytest.mark.parametrize("options", [{"global_batch_size": 16}, {"global_batch_size": 16, "max_steps": 2}])
def test_images_that_do_not_fill_up_a_batch(make_trainer, make_dataset, options):
    trainer = make_trainer(train=make_dataset(8), dataloader_drop_last=True, **options)
    for use in (trainer.find_schedule_misfit, trainer.train):
        with pytest.raises(ValueError, match="the 8 training images do not fill up a batch of 16 in each of 1 proc"):
            use()


def test_events_of_a_run_are_recorded(make_trainer, tmp_path):
    (tmp_path / "run").mkdir()
    reader = EventReader(tmp_path / "run" / "events.jsonl")
    epochs = {"num_train_epochs": 2, "eval_strategy": "epoch", "logging_strategy": "epoch"}
    trainer = make_trainer("run", callbacks=[RunEventsCallback()], **epochs)
    trainer.train()
    events = reader.read()
    assert [event.event for event in events] == ["begin", "log", "evaluate", "log", "evaluate", "end"]
    assert [event.progress for event in events if event.event == "evaluate"] == [0.5, 1.0]
    scores = [event.values["eval_top1"] for event in events if event.event == "evaluate"]
    assert scores == [entry["eval_top1"] for entry in trainer.state.log_history if "eval_top1" in entry]


def test_training_continues_where_events_cannot_be_recorded(make_trainer, tmp_path, caplog):
    (tmp_path / "run" / "events.jsonl").mkdir(parents=True)
    trainer = make_trainer("run", max_steps=2, callbacks=[RunEventsCallback()])
    trainer.train()
    assert trainer.state.global_step == 2 and "an event of the run is not recorded" in caplog.text
