"""The record of a run (run.json): what was run."""

import platform
import re
import secrets
import sys
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch

from .. import __version__
from ..choices import BUILT_IN_DATASETS
from ..processes import is_launched
from .arguments import GIVEN, RunArguments
from .files import folder_name

_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


def map_texts(change, value):
    """Apply a function to all texts in nested lists and dicts."""
    if isinstance(value, dict):
        return {key: map_texts(change, part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_texts(change, part) for part in value]
    return change(value) if isinstance(value, str) else value


def redact(value):
    """Remove tokens, and all but the last part of local paths, from a text or from lists and dicts of texts."""
    return map_texts(_redact_text, value)


def _redact_text(text):
    flag, equals, rest = text.partition("=") if text.startswith("--") else ("", "", text)
    if rest.startswith(("~", "..")) or PurePosixPath(rest).is_absolute() or PureWindowsPath(rest).is_absolute():
        rest = PureWindowsPath(rest).name
    return _SECRET.sub("<HF_TOKEN>", flag + equals + rest)


def command_line(argv, prog):
    """Return the command line of this program, without its launcher and the value of `--hub_token`."""
    program = prog.split() if prog else [sys.argv[0]] if is_launched() else ["python", sys.argv[0]]
    words = sys.argv[1:] if argv is None else argv
    hidden = ["--hub_token=<HUB_TOKEN>" if word.startswith("--hub_token=") else word for word in words]
    return [*program, *("<HUB_TOKEN>" if before == "--hub_token" else word for before, word in pairwise(["", *hidden]))]


# The arguments that decide a run's result, in the order in which a reader asks for them.
_RUN_ARGUMENTS = (
    "num_train_epochs", "max_steps", "global_batch_size", "optim", "learning_rate", "lr_scheduler_type",
    "lr_scheduler_kwargs", "warmup_steps", "lr_scaling", "scaled_learning_rate", "optim_args", "weight_decay",
    "max_grad_norm", "label_smoothing_factor", "mixup_alpha", "cutmix_alpha", "mixing_probability", "cutmix_share",
    "mixing_stop_epoch", "ema_decay", "saved_weights", "gradient_accumulation_steps", "eval_strategy",
    "metric_for_best_model", "load_best_model_at_end", "early_stopping_patience", "seed",
)  # fmt: skip


def model_name(config):
    """The name of a model, such as resnet50, or resnet-basic-1-1-1-w16-32-64."""
    from ..model.configuration_cifar_resnet import STANDARD_DEPTHS, STANDARD_WIDTHS

    if config.depth is None:
        name, usual_widths = "-".join(["resnet", config.block, *map(str, config.stage_depths)]), STANDARD_WIDTHS
    else:
        name, usual_widths = f"resnet{config.depth}", STANDARD_DEPTHS[config.depth][-1]
    if config.stage_widths != usual_widths:
        name += "-w" + "-".join(map(str, config.stage_widths))
    return name


def dataset_label(name):
    """The last part of a Hub id or a path."""
    local = name not in BUILT_IN_DATASETS and Path(name).exists()
    return Path(name).resolve().name if local else name.split("/")[-1]


def run_name(data_args, config, args):
    """The default name of a run's folder."""
    return f"{dataset_label(data_args.dataset_name)}-{model_name(config)}-{args.lr_scheduler_type}-seed{args.seed}"


def hardware(args):
    """The hardware in use, such as `1 x NVIDIA L4`, or `AMD EPYC, 2 threads`."""
    if args.device.type != "cpu":
        name = torch.cuda.get_device_name() if args.device.type == "cuda" else args.device.type
        return f"{args.world_size} x {name}"
    processes = f"{args.world_size} processes x " if args.world_size > 1 else ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{cpu}, {processes}{threads} thread{'s' if threads > 1 else ''}"


def make_record(model, data, model_args, data_args, args, command, given=None):
    """
    Make the record of a run (`run.json`), of plain values; `command` is the command line, and `given` are the
    [`RunArguments`], which are those of no run if they are None.
    """
    sizes = {name: len(getattr(data, name) or ()) for name in ("train", "validation", "test")}
    on_hub = data_args.dataset_name not in BUILT_IN_DATASETS and not Path(data_args.dataset_name).exists()
    label = dataset_label(data_args.dataset_name)
    name, selected_on = model_name(model.config), data_args.eval_split
    return {
        "command": command,  # the first entry, by which `files.RUN_FILES` knows the file
        "id": secrets.token_hex(8),  # a resumed run keeps it
        "dataset": {
            "id": data_args.dataset_name if on_hub else label,
            "name": label,
            "config": data_args.dataset_config_name,
            "on_hub": on_hub,
            "built_in": data_args.dataset_name in BUILT_IN_DATASETS,
            "image_size": data.image_size,
            **data.provenance,
            "num_labels": len(data.label_names),
            **sizes,
            # Identifies the split that the best checkpoint is chosen on: see `find_dataset_difference`.
            "scored_images": getattr(data, "test" if selected_on == "none" else selected_on).digest(),
        },
        "model": {
            "name": name,
            "path": folder_name(args.output_dir),
            "description": f"{name} with the {model.config.stem} stem, {model.num_parameters():,} parameters",
            "parameters": model.num_parameters(),
            "base": model_args.model_name_or_path,
        },
        "arguments": {name: plain(getattr(args, name)) for name in _RUN_ARGUMENTS}
        | {"augmentation": data_args.augmentation},
        GIVEN: (given or RunArguments()).to_record(),
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


def plain(value):
    return getattr(value, "value", value)
