"""Make the record and the metrics of a run from what trains: model, data, arguments and the Trainer's state."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from .. import __version__
from ..data.arguments import BUILT_IN_DATASETS
from ..evaluation.analysis import ConfusedPair
from ..evaluation.scores import Scores
from ..runs.arguments import RunArguments
from ..runs.files import folder_name, step_of
from ..runs.history import History, HistoryRow
from ..runs.metrics import RunMetrics, Selection, Timing, TrainScores
from ..runs.record import DatasetRecord, ModelRecord, Precision, RunRecord, enum_value

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from transformers.trainer_callback import TrainerState

    from ..data.arguments import DataArguments
    from ..data.dataset import ImageDataset
    from ..data.splits import ImageSplits
    from ..model import CifarResNetConfig, CifarResNetForImageClassification
    from .arguments import CifarTrainingArguments, ModelArguments

# The arguments that decide a run's result, in the order in which a reader asks for them.
RUN_ARGUMENTS = (
    "num_train_epochs", "max_steps", "global_batch_size", "optim", "learning_rate", "lr_scheduler_type",
    "lr_scheduler_kwargs", "warmup_steps", "lr_scaling", "scaled_learning_rate", "optim_args", "adam_beta1",
    "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm", "label_smoothing_factor", "mixup_alpha",
    "cutmix_alpha", "mixing_probability", "cutmix_share", "mixing_stop_epoch", "ema_decay", "saved_weights",
    "sync_batchnorm", "gradient_accumulation_steps", "dataloader_drop_last", "eval_strategy", "eval_steps",
    "eval_delay", "eval_on_start", "metric_for_best_model", "load_best_model_at_end", "early_stopping_patience",
    "seed", "data_seed",
)  # fmt: skip
# Packages whose versions are recorded.
_PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "datasets")


def make_record(
    model: CifarResNetForImageClassification,
    data: ImageSplits,
    model_args: ModelArguments,
    data_args: DataArguments,
    args: CifarTrainingArguments,
    command: Sequence[str],
    given: RunArguments | None = None,
) -> RunRecord:
    """
    Make the record of a run from what it trains with.

    Args:
        command: the command line.
        given: the arguments as they were given.
    """
    config = cast("CifarResNetConfig", model.config)
    name, label = model_name(config), dataset_label(data_args.dataset_name)
    built_in = data_args.dataset_name in BUILT_IN_DATASETS
    on_hub = not built_in and not Path(data_args.dataset_name).exists()
    scored = data.validation if data_args.eval_split == "validation" else data.test
    return RunRecord(
        command=command,
        id=secrets.token_hex(8),  # a resumed run keeps it
        given=given,
        dataset=DatasetRecord(
            id=data_args.dataset_name if on_hub else label,
            name=label,
            config=data_args.dataset_config_name,
            on_hub=on_hub,
            built_in=built_in,
            image_size=data.image_size,
            revision=data.provenance["revision"],
            license=data.provenance["license"],
            citation=data.provenance["citation"],
            num_labels=len(data.label_names),
            train=_count(data.train),
            validation=_count(data.validation),
            test=_count(data.test),
            scored_images=None if scored is None else scored.digest(),
        ),
        model=ModelRecord(
            name=name,
            path=_path_in_card(args.output_dir or ""),
            description=f"{name} with the {config.stem} stem, {model.num_parameters():,} parameters",
            parameters=model.num_parameters(),
            base=model_args.model_name_or_path,
        ),
        arguments={name: enum_value(getattr(args, name)) for name in RUN_ARGUMENTS}
        | {"augmentation": data_args.augmentation},
        model_arguments=dict(vars(model_args)),
        data_arguments=dict(vars(data_args)),
        precision=cast(Precision, args.precision),
        processes=args.world_size,
        hardware=hardware(args),
        versions={"hf-cifar-resnet": __version__} | {package: version(package) for package in _PACKAGES},
    )


def _path_in_card(output_dir: str) -> str:
    """
    Return the folder of a run as a card names it: as it was given, since the last part alone would be a name on the
    Hub. Where others cannot have that path, a placeholder stands before its last part.
    """
    path = os.path.normpath(output_dir)
    is_elsewhere = os.path.isabs(path) or path.startswith(("..", "~"))
    return f"path/to/{folder_name(path)}" if is_elsewhere or path == "." else Path(path).as_posix()


def _count(images: ImageDataset | None) -> int:
    return 0 if images is None else len(images)


def make_metrics(
    state: TrainerState,
    args: TrainingArguments,
    eval_split: Selection,
    test: Scores | None = None,
    most_confused: Sequence[ConfusedPair] | None = None,
) -> RunMetrics:
    """
    Make the metrics of a run so far from the Trainer's state.

    Args:
        eval_split: the split on which the best epoch is chosen.
        test, most_confused: of the saved model on the test split, once it has been scored.
    """
    history = History.from_log(state.log_history)
    # Nothing may have been logged yet.
    last = history.last or HistoryRow(state.global_step, state.epoch or 0.0)
    best = state.best_model_checkpoint if args.load_best_model_at_end else None
    step = step_of(best) if best else None
    saved = last if step is None else history.at_step(step) or last
    validation = None
    if eval_split == "validation" and {"eval_loss", "eval_top1"} <= saved.evaluation.keys():
        scores = {name.removeprefix("eval_"): value for name, value in saved.evaluation.items()}
        validation = Scores.from_dict(scores)
    return RunMetrics(
        selected_on=eval_split,
        metric_for_best_model=args.metric_for_best_model,
        best_epoch=saved.epoch,
        epochs=state.epoch,
        steps=state.global_step,
        evaluations=sum(bool(row.evaluation) for row in history),
        train=_train_scores(state, last),
        validation=validation,
        test=test,
        most_confused=most_confused,
        timing=_timing(history),
    )


def _train_scores(state: TrainerState, last: HistoryRow) -> TrainScores:
    """Return the means of the last epoch. Checkpoints of former versions have only those since the last log."""
    for entry in reversed(state.log_history):
        if "epoch_accuracy" in entry:
            return TrainScores(entry["epoch_loss"], entry["epoch_accuracy"])
    return TrainScores(last.train_loss, last.train_accuracy)


def _timing(history: History) -> Timing:
    """Return the seconds of training, and its images/s throughout; None where nothing was logged."""
    seconds = images = 0.0
    for row in history:
        if row.train_seconds is not None and row.images_per_second is not None:
            images += row.images_per_second * (row.train_seconds - seconds)
            seconds = row.train_seconds
    return Timing(seconds, images / seconds) if seconds else Timing()


def run_name(data_args: DataArguments, config: CifarResNetConfig, args: CifarTrainingArguments) -> str:
    """Return the default name of a run's folder."""
    return f"{dataset_label(data_args.dataset_name)}-{model_name(config)}-{args.lr_scheduler_type}-seed{args.seed}"


def model_name(config: CifarResNetConfig) -> str:
    """Return the name of a model, such as resnet50, or resnet-basic-1-1-1-w16-32-64."""
    from ..model.configuration_cifar_resnet import STANDARD_DEPTHS, STANDARD_WIDTHS

    if config.depth is None:
        parts = ["resnet", config.block or "", *map(str, config.stage_depths or [])]
        name, usual_widths = "-".join(parts), STANDARD_WIDTHS
    else:
        name, usual_widths = f"resnet{config.depth}", STANDARD_DEPTHS[config.depth][-1]
    if config.stage_widths != usual_widths:
        name += "-w" + "-".join(map(str, config.stage_widths or []))
    return name


def dataset_label(name: str) -> str:
    """Return the last part of a Hub id or a path."""
    local = name not in BUILT_IN_DATASETS and Path(name).exists()
    return Path(name).resolve().name if local else name.split("/")[-1]


def hardware(args: TrainingArguments) -> str:
    """Return the hardware in use, such as `1 x NVIDIA L4`, or `AMD EPYC, 2 threads`."""
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
