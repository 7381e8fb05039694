"""The model card and the other result files of a run."""

import shlex
from pathlib import Path

from ..documents import replacing_files, write_json
from ..errors import printable
from . import run_files, run_record
from .plots import plot_history
from .run_files import CARD, CURVES
from .run_record import ACCURACIES, redact

SCORE_NAMES = {"loss": "loss"} | {score: f"{name} accuracy" for score, name in ACCURACIES.items()}
# Characters that would start a tag, a cell, a link, an image or code, and their replacements.
_MARKDOWN = str.maketrans({"<": "&lt;", ">": "&gt;", "|": "\\|", "`": "'", "[": "\\[", "]": "\\]"})


def _literal(record):
    """Escape the texts of a record, such as class names, so that Markdown and HTML show them literally."""
    return run_record.map_texts(lambda text: printable(text).translate(_MARKDOWN), record)


def model_card(record, metrics):
    """Make the `huggingface_hub.ModelCard` of a run from its `run.json` and `metrics.json`, without local paths."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    record = redact(record)
    dataset, base = record["dataset"], record["model"].get("base")
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
        tags=["resnet", "cifar", "vision", record["arguments"]["lr_scheduler_type"]],
        base_model=base,
        datasets=[dataset["id"]] if dataset["on_hub"] else None,
        metrics=["accuracy"],
        model_name=record["model"]["name"],
        eval_results=results,
    )
    return ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("model_card.md.jinja")),
        record=_literal(record),
        metrics=_literal(metrics),
        citation=None if "```" in (dataset["citation"] or "") else dataset["citation"],
        splits=splits,
        score_names={name: text for name, text in SCORE_NAMES.items() if any(name in s for s in splits.values())},
        command=printable(shlex.join(record["command"])),
    )


def write_run_files(folder, record, metrics, rows):
    """Write run.json, history.csv, README.md and curves.png of a run into its folder, then metrics.json."""
    with replacing_files(folder) as temporary:
        write_json(record, temporary / run_files.RUN_JSON)
        run_record.write_history(rows, temporary / run_files.HISTORY_CSV)
        model_card(record, metrics).save(temporary / CARD)
        plot_history(rows, temporary / CURVES, metrics["selected_on"], record["arguments"]["label_smoothing_factor"])
    # It marks the run as finished, so all other files are complete before it.
    write_json(metrics, Path(folder, run_files.METRICS_JSON))
