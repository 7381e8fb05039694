"""
What this package relies on in transformers beyond its documentation, shown in transformers' own Trainer. Where a
release changes it, a test fails here and names our file.
"""

import ast
import importlib
import inspect
import json
import re
from itertools import chain
from pathlib import Path

import pytest
import torch
from trainer_fixtures import make_model, quick  # noqa: F401
from transformers import Trainer, TrainerCallback, TrainingArguments

import hf_cifar_resnet
from hf_cifar_resnet import CifarTrainer

PACKAGE = Path(hf_cifar_resnet.__file__).parent
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__main__.py"]


class EventLog(TrainerCallback):
    """Lists what happens in a training, in order; `stop_at` is an event and a step at which it is to end."""

    def __init__(self, stop_at=None):
        self.events, self.stop_at = [], stop_at
        self.weights = {}  # at some of the events

    def record(self, event, state, control):
        self.events.append(event)
        if self.stop_at == (event, state.global_step):
            control.should_training_stop = True

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.started = state.global_step, model.state_dict(), dict(optimizer.state)
        self.record("train begins", state, control)

    def on_step_end(self, args, state, control, **kwargs):
        self.record("step ends", state, control)

    def on_epoch_end(self, args, state, control, **kwargs):
        self.record("epoch ends", state, control)

    def on_evaluate(self, args, state, control, **kwargs):
        self.record("evaluated", state, control)

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        kind = next(name for name in ("train_runtime", "eval_loss", "loss") if name in logs)
        self.record(f"log {kind}", state, control)
        if kind == "train_runtime":
            self.weights["summary"] = weights_of(model)

    def on_save(self, args, state, control, **kwargs):
        checkpoint = Path(args.output_dir, f"checkpoint-{state.global_step}")
        files = sorted(path.name for path in checkpoint.iterdir() if path.suffix != ".py")
        self.record(f"saved {' '.join(files)}", state, control)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.record("train ends", state, control)
        self.weights["end"] = weights_of(model)


def weights_of(model):
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


class LoggedTrainer(Trainer):
    """transformers' Trainer, whose public methods are events too."""

    def __init__(self, *args, log, **kwargs):
        self.event_log = log
        super().__init__(*args, callbacks=[log], **kwargs)

    def create_scheduler(self, *args, **kwargs):
        self.event_log.events.append("create_scheduler")
        return super().create_scheduler(*args, **kwargs)

    def save_model(self, output_dir=None, _internal_call=False):
        there = Path(output_dir).iterdir() if Path(output_dir).is_dir() else ()
        self.event_log.events.append(f"save_model into {' '.join(path.name for path in there) or 'an empty folder'}")
        super().save_model(output_dir, _internal_call)


@pytest.fixture
def train(make_model, tmp_path):  # noqa: F811
    """Trains for two epochs of two steps, of which the first is the best, and returns the events and the trainer."""

    def train(log=None, resume=None, **options):
        log, scores = log or EventLog(), iter([0.9, 0.1])
        images = [{"pixel_values": torch.randn(3, 8, 8), "labels": number % 3} for number in range(16)]
        args = TrainingArguments(
            str(tmp_path), num_train_epochs=2, use_cpu=True, report_to="none", disable_tqdm=True,
            logging_strategy="epoch", eval_strategy="epoch", metric_for_best_model="score",
            **({"save_strategy": "epoch", "load_best_model_at_end": True} | options),
        )  # fmt: skip
        trainer = LoggedTrainer(
            make_model(num_labels=3), args, train_dataset=images, eval_dataset=images, log=log,
            compute_metrics=lambda prediction: {"score": next(scores)},
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return log, trainer

    return train


# All that a checkpoint has; the last is the pickle that ours leaves out.
FILES = "config.json model.safetensors optimizer.pt rng_state.pth scheduler.pt trainer_state.json training_args.bin"


def test_order_of_a_training(train):
    """
    - training/trainer.py makes a schedule for each training, and `save_model` makes way for a checkpoint;
    - training/callbacks.py defers to the end of the epoch what is due after its last step;
    - checkpoints/save.py writes the manifest in `on_save`, and verifies the best model when the summary is logged.
    """
    log, _ = train()
    epoch = [
        "step ends", "step ends", "epoch ends", "log loss", "log eval_loss", "evaluated",
        "save_model into an empty folder", f"saved {FILES}",
    ]  # fmt: skip
    assert log.events == ["create_scheduler", "train begins", *epoch, *epoch, "log train_runtime", "train ends"]


def test_best_model_is_loaded_between_the_summary_and_the_end(train):
    """training/trainer.py averages the weights of a schedule-free optimizer before."""
    log, trainer = train()
    assert trainer.state.best_global_step == 2
    assert not log.weights["summary"].equal(log.weights["end"])
    assert weights_of(trainer.model).equal(log.weights["end"])


@pytest.mark.parametrize("event", ["step ends", f"saved {FILES}"])
def test_training_that_is_stopped_takes_no_further_step_and_can_be_resumed(train, tmp_path, event):
    """training/preemption.py stops it, and checkpoints/resume.py reads from the state whether it had ended."""
    _, stopped = train(EventLog(stop_at=(event, 1)), save_strategy="steps", save_steps=1, load_best_model_at_end=False)
    assert stopped.state.global_step == 1
    checkpoint = tmp_path / "checkpoint-1"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    ended = state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"]
    assert ended == (event == "step ends")
    log, resumed = train(resume=str(checkpoint), save_strategy="no", load_best_model_at_end=False)
    assert resumed.state.global_step == 4
    # checkpoints/resume.py: all that it verifies has been read when training begins.
    step, weights, moments = log.started
    assert step == 1 and len(moments) == len(list(resumed.model.parameters()))


# Names


def overridden_methods():
    return sorted(
        name
        for name, method in vars(CifarTrainer).items()
        if callable(method) and hasattr(Trainer, name) and not name.startswith("__")
    )


@pytest.mark.parametrize("name", overridden_methods())
def test_method_takes_what_transformers_passes(name):
    theirs, ours = (inspect.signature(getattr(kind, name)).parameters for kind in (Trainer, CifarTrainer))
    assert [parameter for parameter in ours if parameter in theirs and parameter not in ("args", "kwargs")] == [
        parameter for parameter in theirs if parameter in ours and parameter not in ("args", "kwargs")
    ]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in ours.values())
    assert takes_any or set(theirs) <= set(ours)


# Private names of other packages that ours uses, each with the reason.
PRIVATE_NAMES = {
    "_compute": "evaluation/metrics.py: evaluate documents it for a metric of one's own",
    "_get_grad_norm": "training/trainer.py: with `max_grad_norm` 0 it still computes a norm at every step",
    "_info": "evaluation/metrics.py: evaluate documents it for a metric of one's own",
    "_init_weights": "model: transformers documents it for a model of one's own",
    "_n_gpu": "training/arguments.py: several GPUs in one process would be nn.DataParallel, which splits BatchNorm",
    "_no_split_modules": "model: transformers documents it for a model of one's own",
    "_train_batch_size": "training/trainer.py: it is not read again from arguments that were changed between trainings",
}


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name != "_exit"  # which `os` documents


def names_of_own(tree):
    """What a module or a class defines or assigns."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return set(filter(is_private, names))


def names_of_bases(kind):
    """What the classes of other packages define or assign that a class of ours extends."""
    bases = [
        base for base in kind.__mro__[1:-1] if base.__module__.split(".")[0] not in ("hf_cifar_resnet", "builtins")
    ]
    assigned = [re.findall(r"self\.(_\w+)", inspect.getsource(base)) for base in bases]
    return set(filter(is_private, chain(*map(vars, bases), *assigned)))


def test_private_names_that_are_used():
    """Each is read and defined nowhere here, or also defined by a class of another package that ours extends."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    read = {node.attr for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used = set(filter(is_private, read)).difference(*map(names_of_own, trees.values()))
    for path, tree in trees.items():
        module = importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                used |= names_of_own(node) & names_of_bases(getattr(module, node.name))
    assert used == set(PRIVATE_NAMES)
