"""The lines that a run prints before and after training."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from ..checkpoints.run_folder import kind_of_resume
from ..data.policies import build_policy, describe
from ..data.steps import Steps
from ..errors import printable
from ..evaluation.scores import ACCURACY_NAMES
from ..runs.files import step_of
from ..runs.metrics import RunMetrics
from ..runs.record import RunRecord, enum_value
from .arguments import LR_BATCH

if TYPE_CHECKING:
    from .arguments import CifarTrainingArguments


def start_block(
    record: RunRecord,
    args: CifarTrainingArguments,
    hub: object = None,
    resume: str | os.PathLike[str] | None = None,
    warning: str | None = None,
) -> str:
    """
    Return the lines that are printed before training.

    Args:
        hub: describes as a text where the run is pushed.
        resume: the checkpoint that the run is resumed from.
        warning: a last line.
    """
    data = record.dataset
    validation = f"{data.validation:,} validation, " if data.validation else ""
    how = {
        "validation": "test is scored once, at the end",
        "test": "selected on test",
        "none": "nothing is evaluated while training; test is scored once, at the end",
    }[record.data_arguments["eval_split"]]
    length = f"{args.max_steps:,} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    warmup = f", warmup {args.warmup_steps:g}" if args.warmup_steps else ""
    options = f" {args.lr_scheduler_kwargs}" if args.lr_scheduler_kwargs else ""
    batch = f"{args.world_size} x {args.per_device_train_batch_size} x {args.gradient_accumulation_steps}"
    lines = {
        "Dataset": f"{data.name}: {data.train:,} train, {validation}{data.test:,} test; "
        f"{data.num_labels} classes, {data.image_size}x{data.image_size} pixels; {how}",
        "Model": record.model.description,
        "Training": f"{length}, global batch {args.global_batch_size} "
        f"(processes x per device x accumulation: {batch}), {_optimizer(args)}{_repeated(data.train, args)}",
        "Schedule": f"{args.lr_scheduler_type}{options}{warmup}, peak LR {_learning_rate(args)}",
        "Methods": _methods(record, args),
        "Precision": f"{args.precision} ({args.precision_source})",
        "Device": f"{record.hardware}, {args.dataloader_num_workers} loader workers{_unused_gpus(args)}",
        "Output": args.output_dir,
    }
    if record.model.base:
        lines["Model"] += f", weights of {record.model.base}"
    if resume:
        lines["Resumed"] = f"{resume}"
        if args.resume_from_checkpoint and kind_of_resume(args.resume_from_checkpoint) == "pushed":
            lines["Resumed"] += f", from {args.resume_from_checkpoint} on the Hub"
        if record.changed_arguments:
            changes = [f"{name} {' -> '.join(map(str, values))}" for name, values in record.changed_arguments.items()]
            step = f"step {step_of(resume)}" if step_of(resume) is not None else "here"
            lines["Resumed"] += f", with changed arguments from {step} on: {printable(', '.join(changes))}"
    if hub:
        lines["Hub"] = str(hub)
    if warning:
        lines["Warning"] = warning
    return "\n".join(f"{name:<10} {text}" for name, text in lines.items())


def _optimizer(args: CifarTrainingArguments) -> str:
    clipping = f", clipping at {args.max_grad_norm:g}" if args.max_grad_norm else ""
    options = f" ({args.optim_args})" if args.optim_args else ""
    return f"{enum_value(args.optim)}{options}, weight decay {args.weight_decay:g}{clipping}"


def _repeated(num_images: int, args: CifarTrainingArguments) -> str:
    batch_size = args.per_device_train_batch_size
    assert batch_size is not None  # arguments that are resolved have one
    repeated = Steps.of(args, num_images, batch_size).repeated
    return f"; {repeated:,} repeated images fill up the last step of an epoch, and do not count" if repeated else ""


def _learning_rate(args: CifarTrainingArguments) -> str:
    text = f"{args.scaled_learning_rate:g}"
    if args.lr_scaling != "none":
        given = f"{args.learning_rate:g} at batch {LR_BATCH}"
        text += f" ({given}, {args.lr_scaling} scaling to batch {args.global_batch_size})"
    return text


def _methods(record: RunRecord, args: CifarTrainingArguments) -> str:
    """List the augmentation, mixing, regularisation and averaging in use."""
    data, model = record.data_arguments, record.model_arguments
    alphas = {"MixUp": args.mixup_alpha, "CutMix": args.cutmix_alpha}
    mixing = [f"{name} {alpha:g}" for name, alpha in alphas.items() if alpha]
    if mixing:
        share = "" if args.mixing_probability == 1 else f" in {args.mixing_probability:.0%} of batches"
        stop = args.mixing_stop_epoch
        until = "" if stop is None else f" until {stop:.0%} of the run" if stop < 1 else f" until epoch {stop:g}"
        mixing = [" or ".join(mixing) + share + until]
    valued = {
        "random erasing": data["random_erasing"],
        "label smoothing": args.label_smoothing_factor,
        "dropout": model["dropout"],
        "drop path": model["drop_path_rate"],
        "EMA": args.ema_decay,
    }
    rest = [f"{name} {value:g}" for name, value in valued.items() if value]
    if args.ema_decay:
        rest[-1] += f" ({args.saved_weights} weights are evaluated and saved)"
    # Whether images are mirrored, above all: some classes are told apart by that alone.
    steps = describe(build_policy(data["augmentation"], data["image_size"], data["color_jitter"]))
    augmentation = f"augmentation {data['augmentation']}{f' ({steps})' if steps else ''}"
    return ", ".join([augmentation, *mixing, *rest])


def _unused_gpus(args: CifarTrainingArguments) -> str:
    visible = torch.cuda.device_count() if args.device.type == "cuda" else 0
    if args.world_size > 1 or visible < 2:
        return ""
    return f"; {visible - 1} more GPUs idle, `accelerate launch --multi_gpu train.py ...` uses all"


def end_block(metrics: RunMetrics, folder: str) -> str:
    """Return the lines that are printed after training; the model is saved in `folder`."""
    lines = []
    is_selected_on_test = metrics.selected_on == "test" and metrics.evaluations != 0
    for split, scores in (("Validation", metrics.validation), ("Test", metrics.test)):
        if scores is not None:
            values = scores.to_dict()
            accuracies = [f"{text} {values[name]:.2%}" for name, text in ACCURACY_NAMES.items() if name in values]
            note = " (selected on test)" if is_selected_on_test else ""
            lines.append(f"{split:<10} loss {scores.loss:.4f}, {', '.join(accuracies)}{note}")
    lines.append(f"{'Saved':<10} {folder}{os.sep} (epoch {metrics.best_epoch or 0:.4g})")
    return "\n".join(lines)
