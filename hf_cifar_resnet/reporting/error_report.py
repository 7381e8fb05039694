"""Write the error analysis of a checkpoint: tables as CSV and JSON, and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..documents import write_csv, write_json
from ..evaluation import analysis
from .plots import COLORS, PICTURE, WIDTH, add_legend, new_figure, plot_style, save_figure, show_image

if TYPE_CHECKING:
    from ..data.dataset import ImageDataset
    from ..data.splits import ImageSplits

# With more classes, the cells of a confusion matrix have no room for their counts.
MAX_CLASSES_WITH_COUNTS = 25
MISTAKES, MISTAKES_IN_A_ROW = 30, 6
# The names of the files, with patterns of the contents that show that they are ours; the first one speaks for all.
ANALYSIS_FILES: dict[str, bytes | None] = {
    "analysis.json": rb'\A{\n  "images": \d+,\n  "accuracy": ',
    **dict.fromkeys(("per_class.csv", "confusion.csv", "superclass_confusion.csv")),
    **dict.fromkeys(
        ("*confusion.png", "*confusion.svg", "reliability.png", "reliability.svg", "mistakes.png"), PICTURE
    ),
}


@dataclass(frozen=True)
class Calibration:
    """The mean negative log-likelihood and the expected calibration error, 0 to 1, at a temperature."""

    temperature: float
    loss: float
    ece: float


@dataclass(frozen=True)
class ErrorAnalysis:
    """
    The content of analysis.json: accuracies 0 to 1, how many classes have images, over which their mean is taken, and
    the pairs of classes most often taken for each other.
    """

    images: int
    accuracy: float
    mean_class_accuracy: float
    classes_with_images: int
    calibration: Sequence[Calibration]
    most_confused: Sequence[analysis.ConfusedPair]


def write_analysis(
    folder: Path, logits: np.ndarray, split: ImageDataset, data: ImageSplits, temperature: float = 1.0
) -> ErrorAnalysis:
    """
    Write analysis.json, per_class.csv, confusion.csv, confusion.png, reliability.png and mistakes.png; with
    superclasses also superclass_confusion.csv and superclass_confusion.png. Return what analysis.json holds.

    Args:
        logits: (n, num_labels), of the images in `split`. The tables have the classes of these images, and the
            confusion between classes those that some were taken for too.
        data: the dataset that the split is of.
        temperature: that of the checkpoint. The calibration is shown with it and without.
    """
    names, labels = data.label_names, split.labels.numpy()
    predicted, groups, group_names = logits.argmax(axis=1), data.superclass_of, data.superclass_names
    matrix = analysis.confusion_matrix(predicted, labels, len(names))

    # A model may be scored on few of its classes.
    occurring = np.flatnonzero(matrix.any(axis=0) | matrix.any(axis=1))
    write_confusion(matrix[occurring][:, occurring], [names[i] for i in occurring], folder / "confusion.csv")
    order = occurring
    superclass = None
    if groups is not None and group_names is not None:
        superclass = [group_names[group] for group in groups]
        order = occurring[np.argsort(groups[occurring], kind="stable")]
        grouped = analysis.confusion_matrix(groups[predicted], groups[labels], len(group_names))
        write_confusion(grouped, group_names, folder / "superclass_confusion.csv")
        plot_confusion(grouped, group_names, folder / "superclass_confusion.png")
    write_per_class(matrix, names, superclass, folder / "per_class.csv")
    plot_confusion(matrix[order][:, order], [names[i] for i in order], folder / "confusion.png")
    found = {t: analysis.reliability(analysis.probabilities(logits, t), labels) for t in (1.0, temperature)}
    plot_reliability(found, folder / "reliability.png")
    probs = analysis.probabilities(logits, temperature)
    wrong = analysis.confident_mistakes(probs, labels, MISTAKES)
    plot_mistakes(split.images[wrong], labels[wrong], probs[wrong], names, folder / "mistakes.png")
    result = ErrorAnalysis(
        images=len(labels),
        accuracy=float(np.trace(matrix) / len(labels)),
        mean_class_accuracy=float(np.nanmean(analysis.class_accuracy(matrix))),
        classes_with_images=int(matrix.any(axis=1).sum()),
        calibration=[
            Calibration(t, analysis.negative_log_likelihood(logits, labels, t), bins.ece) for t, bins in found.items()
        ],
        most_confused=analysis.most_confused(logits, labels, names),
    )
    write_json(asdict(result), folder / "analysis.json")
    return result


def write_confusion(matrix: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Write a confusion matrix as CSV: a row for each label, a column for each prediction."""
    rows = [[name, *row] for name, row in zip(names, matrix.tolist(), strict=True)]
    write_csv([["label \\ predicted", *names], *rows], path)


def write_per_class(matrix: np.ndarray, names: Sequence[str], superclass: Sequence[str] | None, path: Path) -> None:
    """Write the accuracy of each class with images as CSV, worst first, and what it is most often taken for."""
    accuracy = analysis.class_accuracy(matrix)
    mistakes = matrix - np.diag(np.diag(matrix))
    rows = []
    for i in np.argsort(accuracy, kind="stable")[: np.isfinite(accuracy).sum()]:  # NaN is sorted to the end
        other = int(mistakes[i].argmax())
        taken_for = (names[other], int(mistakes[i, other])) if mistakes[i, other] else ("", "")
        share = round(float(accuracy[i]), 6)
        rows.append([names[i], *([superclass[i]] if superclass else []), int(matrix[i].sum()), share, *taken_for])
    header = ["class", *(["superclass"] if superclass else []), "images", "accuracy", "most_often_taken_for", "times"]
    write_csv([header, *rows], path)


@plot_style()
def plot_confusion(matrix: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Plot a confusion matrix: colors are shares of the label's images, and numbers, if there is room, are counts."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    roomy = len(names) <= MAX_CLASSES_WITH_COUNTS
    # The inches of the cells, and of the names beside them.
    size = max(1.6, min(25, (0.32 if roomy else 0.19) * len(names))) + 1 + 0.085 * max(map(len, names))
    figure, (axes,) = new_figure(1, width=size + 1, height=size)
    axes.grid(False)
    # The square root lets a few percent of mistakes be seen beside a full diagonal.
    drawn = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set(xlabel="predicted", ylabel="label")
    if roomy:
        axes.set_title("numbers: images; colors: shares")
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                color = "white" if shares[row, column] > 0.3 else "black"
                axes.text(column, row, count, ha="center", va="center", fontsize=8, color=color)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.6, format=lambda root, _: f"{root**2:.0%}")
    bar.set_label("share of the label's images")
    save_figure(figure, path, dpi=100, bbox_inches="tight")


@plot_style()
def plot_reliability(found: Mapping[float, analysis.Reliability], path: Path) -> None:
    """
    Plot the accuracy in each bin against its mean confidence, with the gaps whose mean is the expected calibration
    error, and a histogram of the confidence; `found` is {temperature: reliability}.
    """
    figure, axes = new_figure(len(found), 2, width=WIDTH, height=5.6)
    for column, (temperature, bins) in enumerate(found.items()):
        upper, lower = axes[column], axes[len(found) + column]
        width = 1 / len(bins.count)
        left = np.arange(len(bins.count)) * width
        bars = {"width": width, "align": "edge", "edgecolor": "white"}
        confidence, accuracy = bins.confidence[bins.count > 0], bins.accuracy[bins.count > 0]
        upper.plot([0, 1], [0, 1], "--", color="grey", linewidth=1, label="accuracy = confidence")
        upper.vlines(
            confidence,
            accuracy,
            confidence,
            color=COLORS[1],
            linewidth=1.6,
            label="gap, whose mean over images is the ECE",
        )
        # An accuracy of 0 or 1 is on the edge.
        upper.plot(confidence, accuracy, "o", color=COLORS[0], markersize=5, label="images in a bin", clip_on=False)
        kind = "as trained" if temperature == 1 else f"temperature {temperature:.3g}"
        upper.set(title=f"{kind}: ECE {bins.ece:.2%}", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        upper.annotate("less confident\nthan right", (0.04, 0.9), color="grey", va="top", fontsize=8.5)
        upper.annotate("more confident\nthan right", (0.96, 0.1), color="grey", ha="right", fontsize=8.5)
        lower.bar(left, bins.count, color=COLORS[5], **bars)
        lower.set(xlabel="confidence (largest probability)", ylabel="images", xlim=(0, 1))
        for axis in (upper.xaxis, upper.yaxis, lower.xaxis):
            axis.set_major_formatter(lambda value, _: f"{value:.0%}")
    add_legend(figure, axes[0], "outside lower center")
    save_figure(figure, path)


@plot_style()
def plot_mistakes(images: np.ndarray, labels: np.ndarray, probs: np.ndarray, names: Sequence[str], path: Path) -> None:
    """
    Plot wrongly classified images, uint8 (k, height, width, 3), with labels (k,), predictions and their probabilities;
    `probs` are (k, num_labels).
    """
    rows = max(1, -(-len(images) // MISTAKES_IN_A_ROW))
    figure, axes = new_figure(MISTAKES_IN_A_ROW, rows, width=1.75 * MISTAKES_IN_A_ROW, height=2.05 * rows)
    for panel in axes[len(images) :]:
        panel.set_axis_off()
    for panel, image, label, probabilities in zip(axes, images, labels, probs, strict=False):
        show_image(panel, image)
        taken_for = int(probabilities.argmax())
        panel.set_title(f"{names[taken_for]} {probabilities[taken_for]:.0%}\nis {names[label]}", fontsize=9)
    if not len(images):
        axes[0].set_title("no mistakes", fontsize=9)
    save_figure(figure, path, dpi=110, svg=False)
