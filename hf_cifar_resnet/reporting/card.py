"""The model card and the other result files of a run."""

import shlex
from importlib import resources
from pathlib import Path

from ..errors import printable
from . import run_files, run_record
from .plots import plot_history
from .run_files import CARD, CURVES
from .run_record import ACCURACIES, redact

SCORE_NAMES = {"loss": "loss"} | {score: f"{name} accuracy" for score, name in ACCURACIES.items()}
TEMPLATE = "model_card.md.jinja"


def _template_path():
    # Installed with the package; in a clone it lies beside it.
    package = resources.files("hf_cifar_resnet")
    installed = Path(str(package / "model_cards" / TEMPLATE))
    return installed if installed.is_file() else Path(str(package)).parent / "model_cards" / TEMPLATE


# What would be a tag, a cell, a link, an image or code, and what stands for it.
_MARKDOWN = str.maketrans({"<": "&lt;", ">": "&gt;", "|": "\\|", "`": "'", "[": "\\[", "]": "\\]"})


def _literal(value):
    """A record whose texts, such as the names of classes and folders, mean nothing in Markdown or HTML."""
    if isinstance(value, dict):
        return {key: _literal(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_literal(part) for part in value]
    return printable(value).translate(_MARKDOWN) if isinstance(value, str) else value


def model_card(run, metrics):
    """
    The card of a run, as a `huggingface_hub.ModelCard`: without paths of this machine, and valid on the Hub.

    Args:
        run (`dict`): what was run (`run.json`).
        metrics (`dict`): what came out (`metrics.json`).
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    run = redact(run)
    dataset, base = run["dataset"], run["model"].get("base")
    splits = {name: metrics[name] for name in ("test", "validation") if metrics.get(name)}
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset["id"],
            dataset_name=dataset["name"],
            dataset_config=dataset["config"],
            dataset_split=split,
            dataset_revision=dataset["revision"],
            metric_type="accuracy" if score != "loss" else "loss",
            metric_name=SCORE_NAMES[score],
            metric_value=value,
        )
        for split, scores in splits.items()
        for score, value in scores.items()
    ]
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["resnet", "cifar", "vision", run["arguments"]["lr_scheduler_type"]],
        base_model=base,
        datasets=[dataset["id"]] if dataset["on_hub"] else None,
        metrics=["accuracy"],
        model_name=run["model"]["name"],
        eval_results=results,
    )
    return ModelCard.from_template(
        data,
        template_path=str(_template_path()),
        run=_literal(run),
        metrics=_literal(metrics),
        citation=None if "```" in (dataset["citation"] or "") else dataset["citation"],
        splits=splits,
        score_names={name: text for name, text in SCORE_NAMES.items() if any(name in s for s in splits.values())},
        command=printable(shlex.join(run["command"])),
    )


def write_results(folder, run, metrics, rows):
    """
    run.json, history.csv, README.md, metrics.json and curves.png, in this order.

    Args:
        folder (`str` or `Path`): there already.
        run (`dict`): what was run.
        metrics (`dict`): what came out.
        rows (list of dicts): see [`records.history`].
    """
    folder = Path(folder)
    run_record.write_json(run, folder / run_files.RUN_JSON)
    run_record.write_history(rows, folder / run_files.HISTORY_CSV)
    model_card(run, metrics).save(folder / CARD)
    # It says that the run is finished, so it comes after all that the figures are in; a picture can be drawn again.
    run_record.write_json(metrics, folder / run_files.METRICS_JSON)
    plot_history(rows, folder / CURVES, metrics["selected_on"], run["arguments"]["label_smoothing_factor"])
