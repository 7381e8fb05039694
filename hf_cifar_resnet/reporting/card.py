"""The model card and the other result files of a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..documents import replacing_files
from ..errors import printable
from ..evaluation.scores import ACCURACY_NAMES
from ..runs.files import CARD, CURVES, HISTORY_CSV, METRICS_JSON, RUN_JSON
from ..runs.history import History
from ..runs.metrics import RunMetrics
from ..runs.record import RunRecord
from ..runs.redaction import map_texts
from .plots import plot_history

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

# What a model on the Hub needs, and from which version.
NEEDED = {"transformers": "5.21", "torch": "2.11", "torchvision": "0.26"}
SCORE_NAMES = {"loss": "loss"} | {score: f"{name} accuracy" for score, name in ACCURACY_NAMES.items()}
# Arguments of a run that do nothing while they are false or 0.
OFF_BY_DEFAULT = ("sync_batchnorm", "dataloader_drop_last", "eval_delay", "eval_on_start")
# Characters that would start a tag, a cell, a link, an image or code, and their replacements.
_MARKDOWN = str.maketrans({"<": "&lt;", ">": "&gt;", "|": "\\|", "`": "'", "[": "\\[", "]": "\\]"})
# What the cards of models say of these datasets, by their names. Barz and Denzler 2020 counted the duplicates.
_CIFAR = {
    "cifar10": {
        "name": "CIFAR-10",
        "people": "None of its classes is of people; some of its images may show people all the same.",
        "duplicates": "3%",
    },
    "cifar100": {
        "name": "CIFAR-100",
        "people": "Five of its 100 classes show people: baby, boy, girl, man and woman, which make up the superclass "
        "people. These are what the labellers saw in tiny pictures, not what the people would say of themselves, and "
        "whether the accuracy differs with skin colour or origin was not measured. Do not use the model to tell "
        "anyone's sex or age.",
        "duplicates": "10%",
    },
}


def _duration(seconds: float) -> str:
    """Return a time such as 1 h 18 min, 2 min 5 s, or 53 s."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _literal(content: dict[str, Any]) -> dict[str, Any]:
    """Escape the texts in a record, such as class names, so that Markdown and HTML show them literally."""
    return map_texts(lambda text: printable(text).translate(_MARKDOWN), content)


def _effective(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a run without those that are not given, or that another one leaves without effect."""
    mixup, cutmix = arguments.get("mixup_alpha"), arguments.get("cutmix_alpha")
    needs = {
        "saved_weights": arguments.get("ema_decay"),
        "mixing_probability": mixup or cutmix,
        "mixing_stop_epoch": mixup or cutmix,
        "cutmix_share": mixup and cutmix,
        **dict.fromkeys(("adam_beta1", "adam_beta2", "adam_epsilon"), "sgd" not in str(arguments.get("optim"))),
        **{name: arguments.get(name) for name in OFF_BY_DEFAULT},
    }
    return {name: value for name, value in arguments.items() if value is not None and needs.get(name, True)}


def model_card(record: RunRecord, metrics: RunMetrics) -> ModelCard:
    """Make the card of a run's model, without local paths."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    record = record.redacted()
    dataset, train_seconds = record.dataset, metrics.timing.train_seconds
    scored = {"test": metrics.test, "validation": metrics.validation}
    splits = {name: scores.to_dict() for name, scores in scored.items() if scores is not None}
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset.id,
            dataset_name=dataset.name,
            dataset_config=dataset.config,
            dataset_split=split,
            dataset_revision=dataset.revision,
            metric_type="accuracy" if score != "loss" else "loss",
            metric_name=SCORE_NAMES[score],
            metric_value=value,
        )
        for split, scores in splits.items()
        for score, value in scores.items()
    ]
    # A folder may have the name of CIFAR and hold anything; on the Hub it may be read with coarse labels.
    is_cifar = dataset.on_hub or dataset.name == f"cifar{dataset.num_labels}"
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["resnet", "cifar", "vision", record.schedule],
        base_model=record.model.base,
        datasets=[dataset.id] if dataset.on_hub else None,
        metrics=["accuracy"],
        model_name=record.model.name,
        eval_results=results,
    )
    return ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("model_card.md.jinja")),
        record=_literal(record.to_dict()),
        metrics=_literal(metrics.to_dict()),
        citation=None if "```" in (dataset.citation or "") else dataset.citation,
        cifar=_CIFAR.get(dataset.name) if is_cifar else None,
        version=printable(record.versions.get("hf-cifar-resnet", "")),
        train_time=None if train_seconds is None else _duration(train_seconds),
        splits=splits,
        score_names={name: text for name, text in SCORE_NAMES.items() if any(name in s for s in splits.values())},
        needed=NEEDED,
        arguments=_literal(_effective(record.arguments)),
        command=printable(shlex.join(record.command)),
    )


def write_run_files(folder: Path, record: RunRecord, metrics: RunMetrics, history: History) -> None:
    """
    Write run.json, history.csv, README.md, curves.png and curves.svg of a run into its folder, then metrics.json. If
    one cannot be written, none is, and `OSError` is raised.
    """
    label_smoothing = record.arguments.get("label_smoothing_factor", 0.0)
    with replacing_files(folder) as temporary:
        record.write(temporary / RUN_JSON)
        history.write(temporary / HISTORY_CSV)
        model_card(record, metrics).save(temporary / CARD)
        plot_history(history.to_dicts(), temporary / CURVES, metrics.selected_on, label_smoothing)
    # It marks the run as finished, so all other files are complete before it.
    metrics.write(folder / METRICS_JSON)
