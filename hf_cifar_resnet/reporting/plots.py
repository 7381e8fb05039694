"""Plots of runs, studies, schedules and training images."""

import contextlib
import os
import sys
from pathlib import Path
from statistics import mean, stdev

SOFTWARE = "hf-cifar-resnet"
# Of what a PNG of ours contains, by which a later command knows that it may replace it.
PICTURE = rb"\A\x89PNG.*?Software\x00" + SOFTWARE.encode()


def new_figure(columns, rows=1, width=4.4, height=3.4):
    """Return a matplotlib figure that needs no display, and its axes, with a grid, as a flat list."""
    # matplotlib cannot be imported where MPLBACKEND names no backend; one that exists, such as a notebook's, is set.
    named = os.environ.pop("MPLBACKEND", None) if "matplotlib" not in sys.modules else None
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    if named is not None:
        os.environ["MPLBACKEND"] = named
        with contextlib.suppress(ValueError):
            rcParams["backend"] = named
    # A dollar in the name of a class is not the start of a formula.
    rcParams["text.parse_math"] = False
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in axes:
        panel.grid(alpha=0.3)
    return figure, axes


def save_figure(figure, path, **options):
    """Save a figure, as PNG marked as this package's."""
    mark = {"metadata": {"Software": SOFTWARE}} if Path(path).suffix == ".png" else {}
    figure.savefig(path, **mark, **options)


def plot_history(rows, path, split, label_smoothing=0.0):
    """
    Plot accuracy, loss and learning rate over epochs, from `rows`, a [`~hf_cifar_resnet.runs.history.history_rows`]
    with evaluations of `split`. `label_smoothing` is that of the training loss; the evaluation's has none.
    """
    figure, (accuracy, loss, rate) = new_figure(3)
    smoothed = f"train (labels smoothed by {label_smoothing:g})" if label_smoothing else "train"
    accuracies = {"train_accuracy": "train", "eval_top1": f"{split} top-1", "eval_top5": f"{split} top-5"}
    panels = {
        "accuracy": (accuracy, accuracies),
        "loss": (loss, {"train_loss": smoothed, "eval_loss": split}),
        "learning rate": (rate, {"learning_rate": None}),
    }
    for title, (axes, lines) in panels.items():
        for column, label in lines.items():
            points = [(row["epoch"], row[column]) for row in rows if column in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="o" if len(points) < 3 else None)
        _label_epochs(axes, title)
        if axes is not rate and axes.lines:
            axes.legend()
    accuracy.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    save_figure(figure, path, dpi=120)


def _label_epochs(axes, title):
    axes.set(title=title, xlabel="epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)


# Okabe and Ito's colours (2008) differ under every common colour blindness. The line style changes too, so that a line
# under another still shows; seven colours and four styles make 28 different lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")


def style(number):
    """The colour and line style of the line with this number."""
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": LINE_STYLES[number % len(LINE_STYLES)]}


def plot_study(histories, path, split):
    """
    Plot accuracy, loss and learning rate of all variants on common axes: the mean over seeds, and the range as a band.
    `histories` is {variant: one [`~hf_cifar_resnet.runs.history.history_rows`] for each seed}.
    """
    panels = {
        "eval_top1": f"{split} top-1",
        "train_accuracy": "train accuracy (augmented)",
        "eval_loss": f"{split} loss",
        "learning_rate": "learning rate",
    }
    figure, axes = new_figure(2, 2, width=5.2, height=3.8)
    for panel, (column, title) in zip(axes, panels.items(), strict=True):
        for number, (name, runs) in enumerate(histories.items()):
            by_epoch = {}
            for row in (row for rows in runs for row in rows if column in row):
                by_epoch.setdefault(row["epoch"], []).append(row[column])
            epochs, values = sorted(by_epoch), [by_epoch[epoch] for epoch in sorted(by_epoch)]
            marker = "o" if len(epochs) < 3 else None
            panel.plot(epochs, list(map(mean, values)), label=name, marker=marker, **style(number))
            low, high = list(map(min, values)), list(map(max, values))
            panel.fill_between(epochs, low, high, color=style(number)["color"], alpha=0.15, linewidth=0)
        _label_epochs(panel, title)
        if column in ("eval_top1", "train_accuracy"):
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    add_legend(figure, axes[0], "outside lower center")
    save_figure(figure, path, dpi=120)


def add_legend(figure, axes, place):
    """Add a legend of the lines in `axes` outside of them, in as many columns as fit into the figure, at most three."""
    handles, labels = axes.get_legend_handles_labels()
    width = 0.6 + 0.085 * max(map(len, labels))  # inches: the line, and the characters of the longest label
    figure.legend(handles, labels, loc=place, ncols=max(1, min(3, len(labels), int(figure.get_figwidth() / width))))


def plot_study_final(finals, path):
    """Plot the mean and standard deviation of `finals`: {variant: the test top-1 of each seed}."""
    ranked = sorted(finals.items(), key=lambda item: mean(item[1]))
    figure, (axes,) = new_figure(1, width=7.0, height=1.2 + 0.42 * len(ranked))
    for position, (_, values) in enumerate(ranked):
        spread = stdev(values) if len(values) > 1 else 0.0
        axes.errorbar(mean(values), position, xerr=spread, fmt="D", color=COLOURS[0], capsize=4, markersize=6)
        axes.plot(values, [position] * len(values), "o", color=COLOURS[4], markersize=4, alpha=0.8)
    axes.set_yticks(range(len(ranked)), [f"{name} (n = {len(values)})" for name, values in ranked])
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    figure.supxlabel("test top-1: mean ± standard deviation over seeds, and each seed", fontsize="medium")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    save_figure(figure, path, dpi=120)


def plot_values(tops, path, argument, title, chosen=None):
    """
    Plot `tops`, {variant: {value of an argument, as a text: top-1 accuracies}}, over the values: the mean, and the
    standard deviation as a bar. `chosen` has for each variant the value to circle.
    """
    figure, (axes,) = new_figure(1, width=7.0, height=4.2)
    values = dict.fromkeys(value for scores in tops.values() for value in scores)
    try:
        place = {value: float(value) for value in values}
        if min(place.values()) > 0:
            axes.set_xscale("log")
            axes.set_xticks(list(place.values()), list(place), rotation=45 if len(place) > 8 else 0)
            axes.minorticks_off()
    except ValueError:  # values that are no numbers stand side by side
        place = {value: position for position, value in enumerate(values)}
        axes.set_xticks(range(len(values)), values)
    for number, (name, scores) in enumerate(tops.items()):
        known = sorted(scores, key=place.get)
        spread = [stdev(scores[value]) if len(scores[value]) > 1 else 0.0 for value in known]
        points = [place[value] for value in known], [mean(scores[value]) for value in known]
        bars = spread if any(spread) else None
        axes.errorbar(*points, yerr=bars, label=name, marker="o", markersize=4, capsize=3, **style(number))
        if chosen:
            at, top1 = place[chosen[name]], mean(scores[chosen[name]])
            axes.plot(at, top1, "o", markersize=10 + 2 * number, fillstyle="none", color=style(number)["color"])
    axes.set(xlabel=argument, ylabel=title)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    add_legend(figure, axes, "outside upper center")
    save_figure(figure, path, dpi=120)


def plot_schedules(curves, path):
    """Plot `curves`, {schedule: (steps, its learning rate at each)}, each in a small panel."""
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = new_figure(columns, rows, width=3.2, height=2.3)
    highest = max(max(rates) for _, rates in curves.values())
    for panel, (name, (steps, rates)) in zip(axes, curves.items(), strict=False):
        panel.plot(steps, rates, color=COLOURS[0])
        panel.set_title(name, fontsize=10)
        panel.set(xlabel="step", ylim=(0, 1.08 * highest))
        panel.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for panel in axes[len(curves) :]:
        panel.set_visible(False)
    save_figure(figure, path, dpi=110)


def plot_lr_range(rates, losses, smoothed, suggestion, path):
    """Plot loss against learning rate, raw and smoothed, with the suggested learning rate."""
    figure, (axes,) = new_figure(1, width=6.4, height=4.0)
    from matplotlib.ticker import LogFormatter  # after `new_figure`, which sees to MPLBACKEND

    axes.plot(rates, losses, color=COLOURS[5], alpha=0.6, label="loss")
    axes.plot(rates, smoothed, color=COLOURS[0], label="smoothed")
    axes.axvline(suggestion, color=COLOURS[1], linestyle="--", label=f"suggested {suggestion:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title="learning-rate range test")
    # matplotlib's default labels are formulas. Between powers of ten only a short range is labelled.
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    axes.legend()
    save_figure(figure, path, dpi=120)


def plot_images(columns, path, title):
    """
    Plot a table of images; `columns` are triples of a title, images uint8 (rows, height, width, 3) and, for each image,
    what stands under it, or None.
    """
    rows = len(columns[0][1])
    figure, axes = new_figure(len(columns), rows, width=1.1, height=1.4)
    figure.suptitle(title, fontsize="medium", wrap=True)
    for number, cell in enumerate(axes):
        row, column = divmod(number, len(columns))
        heading, images, captions = columns[column]
        cell.imshow(images[row], interpolation="nearest")
        cell.set(xticks=[], yticks=[])
        if row == 0:
            cell.set_title(heading, fontsize="medium")
        if captions:
            cell.set_xlabel(captions[row], fontsize="small")
    save_figure(figure, path, dpi=120)
