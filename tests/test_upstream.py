"""
What this package relies on in transformers beyond its documentation, each with its reason. Where a release changes it,
a test fails and names our file.

One private method of transformers' Trainer is overridden, and no private attribute of it is written.
"""

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import CallbackHandler, TrainerControl, TrainerState

import hf_cifar_resnet
from hf_cifar_resnet import CifarTrainer, CifarTrainingArguments
from hf_cifar_resnet.commands.train import main
from hf_cifar_resnet.runs.history import History

PACKAGE = Path(hf_cifar_resnet.__file__).parent

# Our file and reason, what is relied on, and the lines of it that have to be there, in this order.
RELIED_ON = [
    (
        "training/trainer.py: `save_model` makes way for a checkpoint, and so has to come before all that is written",
        Trainer._save_checkpoint,
        [
            "self.save_model(output_dir, _internal_call=True)",
            "self._save_optimizer_and_scheduler(output_dir)",
            "self._save_rng_state(output_dir)",
            "self.state.save_to_json(",
        ],
    ),
    (
        "training/trainer.py: the pickle that is left out is called so",
        Trainer._save,
        ["torch.save(self.args, os.path.join(output_dir, TRAINING_ARGS_NAME))"],
    ),
    (
        "training/trainer.py: with these two arguments off, only our callbacks delete checkpoints and push",
        Trainer._save_checkpoint,
        ["if self.args.push_to_hub:", "self._push_from_checkpoint(", "save_total_limit=self.args.save_total_limit"],
    ),
    (
        "training/trainer.py: a schedule is made for each training, whether there is one already or not",
        Trainer._prepare_for_training,
        ["self.create_scheduler(num_training_steps=max_steps)", "self._load_optimizer_and_scheduler("],
    ),
    (
        "training/trainer.py: the learning rate is scaled in `get_optimizer_cls_and_kwargs`",
        Trainer.create_optimizer,
        ["self.get_optimizer_cls_and_kwargs(self.args"],
    ),
    (
        "training/trainer.py: `log` puts our metrics in the place of transformers' own",
        Trainer._maybe_log_save_evaluate,
        ['logs["loss"]', "self.log(logs"],
    ),
    (
        "checkpoints/save.py: `on_save` writes the manifest, after all else",
        Trainer._maybe_log_save_evaluate,
        ["self._save_checkpoint(", "self.callback_handler.on_save("],
    ),
    (
        "checkpoints/save.py, training/trainer.py: when the summary is logged, before the best model is loaded, it is "
        "verified, and a schedule-free optimizer's weights are averaged",
        Trainer._finalize_training,
        ['"train",', "self.log(metrics)", "self._load_best_model()", "self.callback_handler.on_train_end("],
    ),
    (
        "training/callbacks.py: what `on_step_end` defers comes after `on_epoch_end`, in one go: log, evaluate, save",
        Trainer._run_epoch,
        [
            "self.callback_handler.on_step_end(",
            "self._maybe_log_save_evaluate(",
            "if self.control.should_epoch_stop or self.control.should_training_stop:",
            "self.callback_handler.on_epoch_end(",
            "self._maybe_log_save_evaluate(",
        ],
    ),
    (
        "training/callbacks.py: an evaluation may end the training before the save that follows it",
        Trainer._maybe_log_save_evaluate,
        ["self.log(logs", "self._evaluate(", "self.control.should_save = is_new_best_metric", "self._save_checkpoint("],
    ),
    (
        "training/preemption.py: a training that is told to stop in `on_save` takes no further step",
        Trainer._inner_training_loop,
        ["self._run_epoch(", "if self.control.should_training_stop:", "break"],
    ),
    (
        "training/preemption.py: the checkpoint of a preempted run, and a finished one with more steps to go, go on",
        CallbackHandler.on_train_begin,
        ["control.should_training_stop = False"],
    ),
    (
        "checkpoints/resume.py: the state says whether the run had ended",
        Trainer._save_checkpoint,
        ["self.callback_handler.callbacks + [self.control] if isinstance(cb, ExportableState)", "stateful_callbacks"],
    ),
    (
        "checkpoints/resume.py: weights, optimizer and state have been read when training begins",
        Trainer._inner_training_loop,
        ["self._init_training_state(", "self._prepare_for_training(", "self.callback_handler.on_train_begin("],
    ),
    (
        "checkpoints/resume.py: the random states are restored after all that uses random numbers",
        Trainer._run_epoch,
        [
            "skip_first_batches(train_dataloader",
            "self._load_rng_state(resume_from_checkpoint)",
            "iter(train_dataloader)",
            "self.get_batch_samples(",
            "self._load_rng_state(resume_from_checkpoint)",
        ],
    ),
    (
        "schedules/scheduler.py: a schedule is loaded after the optimizer, whose settings it sets right",
        Trainer._load_optimizer_and_scheduler,
        ["self.optimizer.load_state_dict(", "self.lr_scheduler.load_state_dict("],
    ),
    (
        "training/arguments.py: our schedules are unknown to transformers, which asks for them here alone",
        TrainingArguments.__post_init__,
        ["self.lr_scheduler_type = SchedulerType(self.lr_scheduler_type)"],
    ),
    (
        "training/arguments.py: the precision is decided here, from the environment too",
        TrainingArguments.__post_init__,
        ['self.mixed_precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")'],
    ),
]


@pytest.mark.parametrize("reason, relied_on, lines", RELIED_ON, ids=[reason for reason, *_ in RELIED_ON])
def test_lines_are_there_in_this_order(reason, relied_on, lines):
    source = inspect.getsource(relied_on)
    pattern = ".*".join(map(re.escape, lines))
    assert re.search(pattern, source, re.S), f"{relied_on.__qualname__} has changed. hf_cifar_resnet/{reason}"


# Methods that ours override, with the parameters that they take from there.
SIGNATURES = {
    "_get_grad_norm": "model grad_norm",
    "add_callback": "callback",
    "call_model_init": "trial",
    "compute_loss": "model inputs return_outputs num_items_in_batch",
    "create_accelerator_and_postprocess": "",
    "create_optimizer": "",
    "create_scheduler": "num_training_steps optimizer",
    "evaluation_loop": "",
    "floating_point_ops": "inputs",
    "get_batch_samples": "",
    "get_decay_parameter_names": "model",
    "get_eval_dataloader": "eval_dataset",
    "get_optimizer_cls_and_kwargs": "args model",
    "get_test_dataloader": "test_dataset",
    "get_train_dataloader": "",
    "log": "logs start_time",
    "prediction_step": "model inputs prediction_loss_only ignore_keys",
    "save_model": "output_dir _internal_call",
    "train": "resume_from_checkpoint",
    "training_step": "model inputs num_items_in_batch",
}


# Private ones, each with the reason why nothing public serves.
PRIVATE_OVERRIDDEN = {
    "_get_grad_norm": "with `max_grad_norm` 0 it computes a norm over all parameters at every step, to log it",
}


def test_no_other_private_method_is_overridden():
    """Nor a public one by accident: all are listed."""
    overridden = {name for name in vars(CifarTrainer) if hasattr(Trainer, name) and not name.startswith("__")}
    assert overridden == set(SIGNATURES)
    assert {name for name in overridden if name.startswith("_")} == set(PRIVATE_OVERRIDDEN)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature_is_the_same(name):
    theirs, ours = (list(inspect.signature(getattr(kind, name)).parameters) for kind in (Trainer, CifarTrainer))
    named = SIGNATURES[name].split()
    assert set(named) <= set(theirs), f"Trainer.{name} has changed: hf_cifar_resnet/training/trainer.py overrides it"
    flexible = {"self", "args", "kwargs"} | set(named)
    assert set(ours) <= flexible
    if not {"args", "kwargs"} & set(ours) or name == "get_optimizer_cls_and_kwargs":
        assert ours == theirs


def test_no_private_name_of_theirs_is_used():
    """By no file of ours: with `_run_epoch` overridden, a resumed run had ended with other weights, and no error."""
    theirs = "".join(map(inspect.getsource, (Trainer, TrainingArguments)))
    ours = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    used = set(re.findall(r"\.(_[a-z]\w+)", ours)) & set(re.findall(r"(?:self\.|def )(_[a-z]\w+)", theirs))
    # Several GPUs in one process would be nn.DataParallel, which splits BatchNorm.
    assert used == {"_n_gpu"} | set(PRIVATE_OVERRIDDEN) and "_n_gpu =" in inspect.getsource(CifarTrainingArguments)


def test_state_that_is_read_and_written():
    """checkpoints/resume.py, trainer.py and callbacks.py"""
    names = {"should_log", "should_evaluate", "should_save", "should_training_stop", "should_epoch_stop"}
    assert names <= set(TrainerControl().state()["args"])
    names = {"global_step", "max_steps", "epoch", "log_history", "best_model_checkpoint", "best_global_step",
             "train_batch_size"}  # fmt: skip
    assert names <= set(vars(TrainerState()))


# Methods and attributes of the Trainer that this package once overrode or wrote.
PRIVATE = """
    _run_epoch _maybe_log_save_evaluate _evaluate _finalize_training _init_training_state _inner_training_loop
    _save_checkpoint _get_output_dir _save_rng_state _load_from_checkpoint _load_optimizer_and_scheduler _load_rng_state
    _load_best_model _issue_warnings_after_load _get_dataloader _get_train_sampler _prepare_inputs _get_grad_norm
    _push_from_checkpoint _tr_loss _total_loss_scalar _globalstep_last_logged _initial_global_step
""".split()
# `train` with a Trainer in which all of them have other names.
RENAMED = """
import inspect, re, sys
import transformers
from transformers import trainer

source = inspect.getsource(trainer)
for name in sys.argv[1].split(","):
    source = re.sub(rf"\\b{name}\\b", f"{name}_of_a_later_release", source)
exec(compile(source, trainer.__file__, "exec"), vars(trainer))
transformers.Trainer = trainer.Trainer
assert not hasattr(trainer.Trainer, "_run_epoch")
from hf_cifar_resnet.commands.train import main
main(sys.argv[2:])
"""


@pytest.mark.slow
def test_run_resumes_to_the_same_bits_where_upstream_has_renamed_its_private_names(tmp_path):
    few = "--config quickstart --use_cpu --max_train_samples 200 --max_eval_samples 100 --max_steps 6"
    steps = "--save_strategy steps --save_steps 3 --eval_strategy steps --eval_steps 3 --output_dir"
    words = f"{few} {steps}".split()
    main([*words, str(tmp_path / "whole")])
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    command = [sys.executable, "-c", RENAMED, ",".join(PRIVATE), *words, str(tmp_path / "resumed")]
    subprocess.run([*command, "--resume_from_checkpoint", "true"], check=True, timeout=300)
    whole, resumed = (History.read(tmp_path / name / "history.csv").to_dicts() for name in ("whole", "resumed"))
    assert [row["train_loss"] for row in resumed] == [row["train_loss"] for row in whole]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert weights[0] == weights[1]
