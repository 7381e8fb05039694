"""A run in words: its name, what it will do, what came out."""

import contextlib
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from .. import __version__
from ..data.sources import BUILT_IN
from ..documents import read_json
from ..errors import printable
from ..model.configuration_cifar_resnet import STANDARD_DEPTHS, STANDARD_WIDTHS
from ..reporting import records
from ..names import LR_BATCH
from .checkpoints import step_of

# The arguments that decide a run's result, in the order in which a reader asks for them.
_TOLD = (
    "num_train_epochs", "max_steps", "global_batch_size", "optim", "learning_rate", "lr_scheduler_type",
    "lr_scheduler_kwargs", "warmup_steps", "lr_scaling", "scaled_learning_rate", "optim_args", "weight_decay",
    "max_grad_norm", "label_smoothing_factor", "mixup_alpha", "cutmix_alpha", "mixing_probability", "cutmix_share",
    "mixing_stop_epoch", "ema_decay", "saved_weights", "gradient_accumulation_steps", "eval_strategy",
    "metric_for_best_model", "load_best_model_at_end", "early_stopping_patience", "seed",
)  # fmt: skip
# The arguments that say which images of a dataset a run is scored on.
_SLICE = ("eval_split", "validation_fraction", "split_seed", "max_eval_samples", "image_size")


def model_name(config):
    """Such as resnet50, or resnet-basic-1-1-1-w16-32-64."""
    if config.depth is None:
        name, usual_widths = "-".join(["resnet", config.block, *map(str, config.stage_depths)]), STANDARD_WIDTHS
    else:
        name, usual_widths = f"resnet{config.depth}", STANDARD_DEPTHS[config.depth][-1]
    if config.stage_widths != usual_widths:
        name += "-w" + "-".join(map(str, config.stage_widths))
    return name


def dataset_label(name):
    """The last part of a Hub id or a path."""
    return name if name in BUILT_IN else Path(name).resolve().name if Path(name).exists() else name.split("/")[-1]


def run_name(data_args, config, args):
    """The name of a run's folder."""
    parts = [dataset_label(data_args.dataset_name), model_name(config), args.lr_scheduler_type, f"seed{args.seed}"]
    return "-".join(parts)


def hardware(args):
    """Such as `1 x NVIDIA L4`, or `AMD EPYC, 2 threads`."""
    if args.device.type == "cuda":
        return f"{args.world_size} x {torch.cuda.get_device_name()}"
    processes = f"{args.world_size} processes x " if args.world_size > 1 else ""
    return f"{_cpu_name()}, {processes}{torch.get_num_threads()} threads"


def _cpu_name():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def run(model, data, model_args, data_args, args, argv=None):
    """Everything that says what a run is (`run.json`), as plain values; paths as they were given, but no token."""
    sizes = {name: len(getattr(data, name) or ()) for name in ("train", "validation", "test")}
    on_hub = data_args.dataset_name not in BUILT_IN and not Path(data_args.dataset_name).exists()
    label = dataset_label(data_args.dataset_name)
    name = model_name(model.config)
    return {
        "command": [Path(sys.argv[0]).name, *records.without_token(sys.argv[1:] if argv is None else argv)],
        "dataset": {
            "id": data_args.dataset_name if on_hub else label,
            "name": label,
            "config": data_args.dataset_config_name,
            "on_hub": on_hub,
            "built_in": data_args.dataset_name in BUILT_IN,
            "image_size": data.image_size,
            **data.provenance,
            "num_labels": len(data.label_names),
            **sizes,
            # What the best checkpoint is chosen on: see `other_dataset`.
            "scored_images": getattr(data, data_args.eval_split).digest(),
        },
        "model": {
            "name": name,
            "path": Path(args.output_dir).name,
            "description": f"{name} with the {model.config.stem} stem, {model.num_parameters():,} parameters",
            "parameters": model.num_parameters(),
            "base": model_args.model_name_or_path,
        },
        "arguments": {name: _plain(getattr(args, name)) for name in _TOLD} | {"augmentation": data_args.augmentation},
        "model_arguments": vars(model_args),
        "data_arguments": vars(data_args),
        "precision": args.precision,
        "processes": args.world_size,
        "hardware": hardware(args),
        "changed_arguments": {},
        "versions": {
            "hf-cifar-resnet": __version__,
            **{name: version(name) for name in ("torch", "torchvision", "transformers", "accelerate", "datasets")},
        },
    }


def changed_arguments(run, checkpoint):
    """
    What a run that goes on from a checkpoint does otherwise than before, as far as the `run.json` beside that tells.

    Returns:
        {argument: list of its values, the first first}, with those that had been changed before.
    """
    before = _run_of(checkpoint)
    changed = {name: values for name, values in _section(before, "changed_arguments").items() if type(values) is list}
    for section in ("arguments", "model_arguments", "data_arguments"):
        then, now = _section(before, section), json.loads(json.dumps(run[section]))
        for name in now.keys() & then.keys():
            if then[name] != now[name]:
                changed[name] = [*changed.get(name, [then[name]]), now[name]]
    return dict(sorted(changed.items()))


def other_dataset(run, checkpoint):
    """
    What shows that a checkpoint is of a run on another dataset, in a few words, so that its scores would be no scores
    of this run; None where the `run.json` beside it shows nothing.
    """
    before = _run_of(checkpoint)
    then, now = _section(before, "dataset"), run["dataset"]
    slices = [[_section(record, "data_arguments").get(name) for name in _SLICE] for record in (before, run)]
    if "scored_images" in then and slices[0] == slices[1]:
        split = run["data_arguments"]["eval_split"]
        same = then["scored_images"] == now["scored_images"]
        return None if same else f"its run was scored on other images than the {split} split of {now['name']} has here"
    if then.get("name", now["name"]) != now["name"]:
        return f"its run was on the dataset {then['name']}, and this one is on {now['name']}"
    return None


def _run_of(checkpoint):
    """The `run.json` beside a checkpoint, or in one that was fetched from the Hub; or {}."""
    for folder in (Path(checkpoint).parent, Path(checkpoint)):
        with contextlib.suppress(OSError, ValueError):
            return read_json(folder / records.RUN_JSON)
    return {}


def _section(record, name):
    return record[name] if isinstance(record.get(name), dict) else {}


def metrics(state, args, eval_split, test=None, most_confused=None):
    """
    What came out of a run so far (`metrics.json`).

    Args:
        state (`TrainerState`): the Trainer's.
        eval_split (`str`): what the best epoch is chosen on.
        test (`dict`, *optional*): the scores of the saved model on the test split, once it has been scored.
        most_confused (list of dicts, *optional*): on the test split, see
            [`~hf_cifar_resnet.evaluation.analysis.most_confused`].
    """
    rows = records.history(state.log_history)
    # Nothing may have been logged or evaluated.
    last = rows[-1] if rows else {"step": state.global_step, "epoch": state.epoch}
    best = state.best_model_checkpoint if args.load_best_model_at_end else None
    kept = step_of(best) if best else last["step"]
    saved = next((row for row in rows if row["step"] == kept), last)
    return {
        "selected_on": eval_split,
        "metric_for_best_model": args.metric_for_best_model,
        "best_epoch": saved["epoch"],
        "epochs": state.epoch,
        "steps": state.global_step,
        "train": {"loss": last.get("train_loss"), "accuracy": last.get("train_accuracy")},
        "validation": records.scores(saved, "eval") if eval_split == "validation" else None,
        "test": test,
        "most_confused": most_confused,
        "timing": {name: last.get(name) for name in ("train_seconds", "images_per_second")},
    }


def _plain(value):
    return getattr(value, "value", value)


def start(run, args, hub=None, resume=None):
    """The block printed before training; `hub` says where it will be pushed, `resume` is the checkpoint."""
    data = run["dataset"]
    selects = run["data_arguments"]["eval_split"]
    validation = f"{data['validation']:,} validation, " if data["validation"] else ""
    how = "selected on test" if selects == "test" else "test is scored once, at the end"
    length = f"{args.max_steps:,} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    warmup = f", warmup {args.warmup_steps:g}" if args.warmup_steps else ""
    options = f" {args.lr_scheduler_kwargs}" if args.lr_scheduler_kwargs else ""
    batch = f"{args.world_size} x {args.per_device_train_batch_size} x {args.gradient_accumulation_steps}"
    lines = {
        "Dataset": f"{data['name']}: {data['train']:,} train, {validation}{data['test']:,} test; "
        f"{data['num_labels']} classes; {how}",
        "Model": run["model"]["description"],
        "Training": f"{length}, global batch {args.global_batch_size} "
        f"(processes x per device x accumulation: {batch}), {_optimizer(args)}",
        "Schedule": f"{args.lr_scheduler_type}{options}{warmup}, peak LR {_learning_rate(args)}",
        "Methods": _methods(run, args),
        "Precision": f"{args.precision} ({args.precision_source})",
        "Device": f"{run['hardware']}, {args.dataloader_num_workers} loader workers{_unused_gpus(args)}",
        "Output": args.output_dir,
    }
    if run["model"]["base"]:
        lines["Model"] += f", weights of {run['model']['base']}"
    if resume:
        lines["Resumed"] = f"{resume}{_changes(run['changed_arguments'])}"
    if hub:
        lines["Hub"] = hub
    return "\n".join(f"{name:<10} {text}" for name, text in lines.items())


def _changes(changed):
    told = ", ".join(f"{name} {' -> '.join(map(str, values))}" for name, values in changed.items())
    return printable(f", with other arguments than it began with: {told}") if told else ""


def _optimizer(args):
    clipping = f", clipping at {args.max_grad_norm:g}" if args.max_grad_norm else ""
    options = f" ({args.optim_args})" if args.optim_args else ""
    return f"{_plain(args.optim)}{options}, weight decay {args.weight_decay:g}{clipping}"


def _learning_rate(args):
    text = f"{args.scaled_learning_rate:g}"
    if args.lr_scaling != "none":
        given = f"{args.learning_rate:g} at batch {LR_BATCH}"
        text += f" ({given}, {args.lr_scaling} scaling to batch {args.global_batch_size})"
    return text


def _stop(epoch):
    return f"{epoch:.0%} of the run" if epoch < 1 else f"epoch {epoch:g}"


def _methods(run, args):
    """Augmentation, mixing, regularisation and averaging, as far as they are on."""
    data, model = run["data_arguments"], run["model_arguments"]
    alphas = {"MixUp": args.mixup_alpha, "CutMix": args.cutmix_alpha}
    mixing = [f"{name} {alpha:g}" for name, alpha in alphas.items() if alpha]
    if mixing:
        share = "" if args.mixing_probability == 1 else f" in {args.mixing_probability:.0%} of batches"
        until = "" if args.mixing_stop_epoch is None else f" until {_stop(args.mixing_stop_epoch)}"
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
    return ", ".join([f"augmentation {data['augmentation']}", *mixing, *rest])


def _unused_gpus(args):
    visible = torch.cuda.device_count() if args.device.type == "cuda" else 0
    if args.world_size > 1 or visible < 2:
        return ""
    return f"; {visible - 1} more GPUs idle, `accelerate launch --multi_gpu train.py ...` uses all"


def end(metrics, args):
    """The lines printed after training."""
    lines = []
    for split in ("validation", "test"):
        scores = metrics[split]
        if scores:
            shown = [f"{text} {scores[name]:.2%}" for name, text in records.ACCURACIES.items() if name in scores]
            note = " (selected on test)" if metrics["selected_on"] == "test" else ""
            lines.append(f"{split.capitalize():<10} loss {scores['loss']:.4f}, {', '.join(shown)}{note}")
    lines.append(f"{'Saved':<10} {args.output_dir}{os.sep} (epoch {metrics['best_epoch']:.4g})")
    return "\n".join(lines)
