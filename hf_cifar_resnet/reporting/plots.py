"""
Plots of runs, studies, schedules and training images, all in one style.

Pictures are as wide as a README shows them (8 inches at 100 pixels each) and are saved with twice as many pixels.
Charts are saved as SVG too. Equal values give equal files.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from ..documents import replacing_files

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOFTWARE = "hf-cifar-resnet"
# Of what a PNG or SVG of ours contains, by which a later command knows that it may replace it.
PICTURE = rb"\A(\x89PNG.*?Software\x00%b|<\?xml.*?<dc:title>%b</dc:title>)" % ((SOFTWARE.encode(),) * 2)
WIDTH = 8.0  # inches
DPI = 200
# Okabe and Ito's colors (2008) differ under every common color blindness; their yellow is too pale for lines. The line
# style changes too, so that a line under another still shows: seven colors and four styles make 28 different lines.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "font.size": 9,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.hashsalt": SOFTWARE,  # ids in an SVG would be random
    "text.parse_math": False,  # a dollar in the name of a class is not the start of a formula
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}

Row = Mapping[str, float]  # of a run's history


@contextlib.contextmanager
def plot_style() -> Iterator[None]:
    """The style of all pictures, for a function that draws one: `@plot_style()`. Other figures keep their own."""
    # matplotlib cannot be imported where MPLBACKEND names no backend; one that exists, such as a notebook's, is set.
    named = os.environ.pop("MPLBACKEND", None) if "matplotlib" not in sys.modules else None
    import matplotlib

    if named is not None:
        os.environ["MPLBACKEND"] = named
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = named
    with matplotlib.rc_context(STYLE):
        yield


def new_figure(columns: int, rows: int = 1, width: float = WIDTH, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """Return a matplotlib figure that needs no display, in inches, and its axes as a flat list."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = DPI, svg: bool = True, **options: Any) -> None:
    """Save a figure, marked as this package's: as PNG, and beside it as SVG unless `svg` is False."""
    path = Path(path)
    if path.suffix.lower() == ".png":
        figure.savefig(path, dpi=dpi, metadata={"Software": SOFTWARE}, **options)
    if svg or path.suffix.lower() == ".svg":
        figure.savefig(path.with_suffix(".svg"), metadata={"Creator": SOFTWARE, "Date": None}, **options)


@contextlib.contextmanager
def atomic_picture(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to save a figure to, as PNG and SVG, which atomically replace those at `path` at the end."""
    place = Path(os.path.realpath(path))
    with replacing_files(place.parent) as temporary:
        yield temporary / place.name


def line_style(number: int) -> dict[str, Any]:
    """Return the color and line style of the line with this number."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": LINE_STYLES[number % len(LINE_STYLES)]}


def add_legend(figure: Figure, axes: Axes, place: Any) -> None:
    """Add a legend of the lines in `axes` outside of them, in as many columns as fit into the figure, at most three."""
    handles, labels = axes.get_legend_handles_labels()
    width = 0.6 + 0.08 * max(map(len, labels))  # inches: the line, and the characters of the longest label
    columns = max(1, min(3, len(labels), int(figure.get_figwidth() / width)))
    figure.legend(handles, labels, loc=place, ncols=columns)


# Labels at the ends of lines

MAX_LABEL = 30  # characters that fit beside axes
MAX_COMBINATIONS = 9  # of values, each with a line and a place in the legend
CHARACTER = 0.075  # inches, about the width of one in a label of an axis


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, str]], height: float) -> bool:
    """
    Write the names of lines beside the right edge of `axes`, which are `height` inches high, each at the height where
    its line ends, moved apart where they would overlap. `ends` is {name: (y, color)}. Return whether they fit; if not,
    nothing is written.
    """
    gap = 0.155 / height  # of the height of the axes
    if not ends or len(ends) * gap > 1 or max(map(len, ends)) > MAX_LABEL:
        return False
    # From data to shares of the height, also on a logarithmic axis.
    to_share = axes.transData + axes.transAxes.inverted()
    left = axes.get_xlim()[0]
    ordered = sorted(ends, key=lambda name: ends[name][0])
    wanted = [min(1.0, max(0.0, float(to_share.transform((left, ends[name][0]))[1]))) for name in ordered]
    spread = spread_out(wanted, gap)
    if any(abs(place - end) > 3 * gap for place, end in zip(spread, wanted, strict=True)):
        return False
    for name, end, place in zip(ordered, wanted, spread, strict=True):
        color = ends[name][1]
        line = {"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 1}
        axes.annotate(
            name, (1.0, end), (1.06, place), "axes fraction", color=color, va="center", fontsize=8.5,
            annotation_clip=False, arrowprops=line,
        )  # fmt: skip
    return True


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Return rising places from 0 to 1 that are at least `gap` apart, as near to the given rising ones as they can."""
    # Groups of labels that touch are centered over where they should be, and grow until none touches another.
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _lowest(groups[-1], gap) < _lowest(groups[-2], gap) + gap * len(groups[-2]):
            last = groups.pop()
            groups[-1] += last
    return [_lowest(group, gap) + gap * number for group in groups for number in range(len(group))]


def _lowest(group: list[float], gap: float) -> float:
    size = gap * (len(group) - 1)
    return min(1.0 - size, max(0.0, mean(group) - size / 2))


# Runs and studies


@plot_style()
def plot_history(rows: Sequence[Row], path: str | os.PathLike[str], split: str, label_smoothing: float = 0.0) -> None:
    """
    Plot accuracy, loss and learning rate over epochs, and the accuracy of the last third once more, from `rows`, the
    history of a run with evaluations of `split`, or of training alone where there are none. `label_smoothing` is that
    of the training loss; the evaluation's has none.
    """
    height = 5.4
    figure, (accuracy, loss, zoom, rate) = new_figure(2, 2, height=height)
    evaluated = any("eval_top1" in row for row in rows)
    zoomed, top1 = ("eval_top1", f"{split} top-1") if evaluated else ("train_accuracy", "train accuracy")
    scores = {"train_accuracy": "train", "eval_top1": "top-1", "eval_top5": "top-5"}
    smoothed = f" (train labels smoothed by {label_smoothing:g})" if label_smoothing else ""
    panels: list[tuple[Axes, str, dict[str, str]]] = [
        (accuracy, f"accuracy: train, {top1} and top-5" if evaluated else top1, scores),
        (loss, f"loss{smoothed}", {"train_loss": "train", "eval_loss": split}),
        (zoom, f"{top1}, last third", {zoomed: ""}),
        (rate, _rate_title([rows]), {"learning_rate": ""}),
    ]
    colors = {"train_accuracy": 0, "train_loss": 0, "eval_top1": 1, "eval_loss": 1, "eval_top5": 2, "learning_rate": 6}
    for axes, title, lines in panels:
        ends = {}
        for column, label in lines.items():
            points = [(row["epoch"], row[column]) for row in rows if column in row]
            if points:
                style = line_style(colors[column])
                if axes in (zoom, rate):
                    style["linestyle"] = "-"
                axes.plot(*zip(*points, strict=True), **style, marker=_marker(len(points)))
                if label:
                    ends[label] = (points[-1][1], style["color"])
        label_epochs(axes, title)
        if axes in (accuracy, zoom):
            axes.yaxis.set_major_formatter(percent)
        if axes is zoom:
            _zoom_on_last_third(axes)
        label_ends(axes, ends, 0.4 * height)
    scale_rates(rate, [[row["learning_rate"] for row in rows if "learning_rate" in row]])
    save_figure(figure, path)


def label_epochs(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(title=title, xlabel="epoch")
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def percent(value: float, _: float) -> str:
    """Format a share for an axis."""
    return f"{100 * value:.4g}%"


def _marker(points: int) -> str | None:
    return "o" if points < 3 else None


def _zoom_on_last_third(axes: Axes) -> None:
    """Limit axes to the last third of the epochs of their lines, and to the values there."""
    import numpy as np

    points = [(float(x), float(y)) for line in axes.lines for x, y in np.asarray(line.get_xydata())]
    if not points:
        return
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    start = last - (last - first) / 3
    shown = [y for x, y in points if x >= start]
    if last > first:
        axes.set_xlim(start, last)
    margin = 0.06 * (max(shown) - min(shown)) or 0.01
    axes.set_ylim(min(shown) - margin, max(shown) + margin)


def mean_over_seeds(runs: Sequence[Sequence[Row]], column: str) -> tuple[list[float], list[float]]:
    """
    Return the epochs at which most runs have a value, and the mean of it over them. Where one has stopped early, the
    mean of the others would jump.
    """
    by_epoch: dict[float, list[float]] = {}
    for row in (row for rows in runs for row in rows if column in row):
        by_epoch.setdefault(row["epoch"], []).append(row[column])
    most = max(map(len, by_epoch.values()), default=0)
    epochs = sorted(epoch for epoch, values in by_epoch.items() if len(values) == most)
    return epochs, [mean(by_epoch[epoch]) for epoch in epochs]


@plot_style()
def plot_study(histories: Mapping[str, Sequence[Sequence[Row]]], path: str | os.PathLike[str], split: str) -> None:
    """
    Plot accuracies, loss and learning rate of all variants on common axes: the means over seeds, at the epochs that all
    of them have. In the last third, which is shown larger, each seed has a thin line. `histories` is {variant: one
    history for each seed}.
    """
    from matplotlib.figure import Figure

    row_height = 2.45
    figure = Figure(figsize=(WIDTH, 3 * row_height), layout="constrained")
    places = figure.subplot_mosaic([["top1", "zoom"], ["train", "loss"], ["rate", "rate"]])
    top1, zoom, train, loss, rate = (places[name] for name in ("top1", "zoom", "train", "loss", "rate"))
    panels = [
        (top1, "eval_top1", f"{split} top-1"),
        (zoom, "eval_top1", f"{split} top-1, last third"),
        (train, "train_accuracy", "train accuracy (augmented)"),
        (loss, "eval_loss", f"{split} loss"),
        (rate, "learning_rate", _rate_title([rows for runs in histories.values() for rows in runs])),
    ]
    rates: dict[str, list[float]] = {}
    for panel, column, title in panels:
        ends = {}
        for number, (name, runs) in enumerate(histories.items()):
            style = line_style(number)
            if panel is zoom and len(runs) > 1:
                for rows in runs:
                    points = [(row["epoch"], row[column]) for row in rows if column in row]
                    if points:
                        panel.plot(*zip(*points, strict=True), color=style["color"], linewidth=0.5, alpha=0.45)
            epochs, values = mean_over_seeds(runs, column)
            if not epochs:
                continue
            panel.plot(epochs, values, label=name, marker=_marker(len(epochs)), **style)
            ends[name] = (values[-1], style["color"])
            if panel is rate:
                rates[name] = values
        label_epochs(panel, title)
        if column in ("eval_top1", "train_accuracy"):
            panel.yaxis.set_major_formatter(percent)
        if panel is zoom:
            _zoom_on_last_third(panel)
        if panel is rate:
            scale_rates(panel, rates.values())
        if panel in (zoom, rate) and not label_ends(panel, ends, 0.75 * row_height) and panel is zoom and ends:
            add_legend(figure, top1, "outside lower center")
    save_figure(figure, path)


def _rate_title(histories: Iterable[Sequence[Row]]) -> str:
    """Say when learning rates were logged, since what happens in between, such as a short warmup, is not drawn."""
    epochs = [row["epoch"] for rows in histories for row in rows if "learning_rate" in row]
    return f"learning rate at {'the end of each epoch' if all(map(float.is_integer, epochs)) else 'each logged step'}"


def scale_rates(axes: Axes, curves: Iterable[Sequence[float]]) -> None:
    """Let the axis of learning rates begin at 0, or be logarithmic where their peaks differ by a factor of ten."""
    peaks = [max(curve) for curve in curves if curve]
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if peaks and min(peaks) > 0 and max(peaks) >= 10 * min(peaks):
        axes.set_yscale("log")
        # A decay to zero leaves the axes below.
        axes.set_ylim(min(peaks) / 300, 1.5 * max(peaks))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
    elif peaks:
        axes.set_ylim(0, 1.08 * max(peaks))


@plot_style()
def plot_final(
    finals: Mapping[str, Mapping[int, float]],
    intervals: Mapping[str, tuple[float, float]],
    path: str | os.PathLike[str],
) -> None:
    """
    Plot the test top-1 accuracy of each seed, `finals`, {variant: {seed: accuracy}}, with its mean and the 95%
    `intervals` of the mean. Thin lines join the results of the same seed.
    """
    ranked = sorted(finals, key=lambda name: mean(finals[name].values()))
    labels = [f"{textwrap.fill(name, MAX_LABEL)} (n = {len(finals[name])})" for name in ranked]
    lines = 1 + max(label.count("\n") for label in labels)
    figure, (axes,) = new_figure(1, height=1.0 + max(0.42, 0.17 * lines) * len(ranked))
    for seed in dict.fromkeys(seed for scores in finals.values() for seed in scores):
        points = [(finals[name][seed], place) for place, name in enumerate(ranked) if seed in finals[name]]
        axes.plot(*zip(*points, strict=True), color="#bbbbbb", linewidth=0.6, zorder=1)
    for place, name in enumerate(ranked):
        values = list(finals[name].values())
        if name in intervals:
            low, high = intervals[name]
            axes.plot([low, high], [place, place], color=COLORS[0], linewidth=5, alpha=0.3, solid_capstyle="butt")
        axes.plot(values, [place] * len(values), "o", color="none", markeredgecolor=COLORS[1], markersize=5, zorder=4)
        axes.plot(mean(values), place, "D", color=COLORS[0], markersize=6, zorder=3)
    axes.set_yticks(range(len(ranked)), labels)
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    axes.grid(False, axis="y")
    title = "test top-1: mean (diamond), its 95% interval (bar), each seed (circle); lines join the results of one seed"
    figure.supxlabel(title, fontsize=9)  # it may be wider than the axes beside long names
    axes.xaxis.set_major_formatter(percent)
    save_figure(figure, path)


@plot_style()
def plot_values(
    tops: Mapping[str, Mapping[str, Sequence[float]]],
    path: str | os.PathLike[str],
    argument: str,
    title: str,
) -> None:
    """
    Plot `tops`, {variant: {value of an argument, as a text: top-1 accuracies}}, over the values: the mean, and the
    standard deviation as a bar.
    """
    height = 3.8
    figure, (axes,) = new_figure(1, height=height)
    places = place_values(axes, [value for scores in tops.values() for value in scores])
    ends = {}
    for number, (name, scores) in enumerate(tops.items()):
        points = _draw_values(axes, scores, places, number, label=name)
        ends[name] = (points[-1][1], line_style(number)["color"])
    axes.set(xlabel=argument, title=title)
    axes.yaxis.set_major_formatter(percent)
    if not label_ends(axes, ends, 0.8 * height):
        add_legend(figure, axes, "outside lower center")
    save_figure(figure, path)


@plot_style()
def plot_tuning(
    tried: Mapping[str, Mapping[tuple[str, ...], float]],
    chosen: Mapping[str, tuple[str, ...]],
    arguments: Sequence[str],
    path: str | os.PathLike[str],
    split: str,
) -> None:
    """
    Plot how arguments were chosen: a panel for each variant, with the first argument as its horizontal axis and a line
    for each combination of the others, or points without lines where there are many, as of a range. `tried` is
    {variant: {a value of each argument, as texts: top-1 accuracy}}; the `chosen` values are circled.
    """
    columns = min(3, len(tried))
    rows = -(-len(tried) // columns)
    titles = [textwrap.fill(name, int(WIDTH / columns / 0.085) - 5) for name in tried]
    lines = max(title.count("\n") for title in titles)
    figure, panels = new_figure(columns, rows, height=0.5 + (2.1 + 0.17 * lines) * rows)
    values = [point[0] for scores in tried.values() for point in scores]
    combinations = list(dict.fromkeys(point[1:] for scores in tried.values() for point in scores))
    combinations.sort(key=lambda texts: [_as_number(text) for text in texts])
    low, high = math.inf, -math.inf
    others = " and ".join(arguments[1:])
    for panel, title, (name, scores) in zip(panels, titles, tried.items(), strict=False):
        places = place_values(panel, values)
        if len(combinations) > MAX_COMBINATIONS:
            label = f"each with its own {others}"
            panel.plot([places[point[0]] for point in scores], list(scores.values()), "o", color=COLORS[0], label=label)
        for number, combination in enumerate(combinations):
            line = {point[0]: [score] for point, score in scores.items() if point[1:] == combination}
            if line and len(combinations) <= MAX_COMBINATIONS:
                label = ", ".join(
                    f"{argument} {value}" for argument, value in zip(arguments[1:], combination, strict=True)
                )
                _draw_values(panel, line, places, number, label=label)
        point = chosen[name]
        panel.plot(
            places[point[0]],
            scores[point],
            "o",
            markersize=11,
            fillstyle="none",
            color="black",
            zorder=5,
            clip_on=False,
        )
        panel.set_title(title)
        _share_limits(panel, list(places.values()))
        low, high = min(low, *scores.values()), max(high, *scores.values())
    margin = 0.08 * (high - low) or 0.01
    for number, panel in enumerate(panels):
        panel.set_visible(number < len(tried))
        panel.set_ylim(low - margin, high + margin)
        panel.yaxis.set_major_formatter(percent)
        if number % columns:
            panel.tick_params(labelleft=False)
    figure.supxlabel(arguments[0], fontsize=9)
    separator = " " if rows > 1 else "\n"  # one row of panels is not as high as the label is long
    figure.supylabel(f"{split} top-1,{separator}mean over tuning seeds", fontsize=9)
    if len(arguments) > 1:
        fullest = max(panels[: len(tried)], key=lambda panel: len(panel.get_legend_handles_labels()[1]))
        add_legend(figure, fullest, "outside upper center")
    save_figure(figure, path)


def _draw_values(
    axes: Axes, scores: Mapping[str, Sequence[float]], places: Mapping[str, float], number: int, label: str
) -> list[tuple[float, float]]:
    known = sorted(scores, key=lambda value: places[value])
    spread = [stdev(scores[value]) if len(scores[value]) > 1 else 0.0 for value in known]
    points = [(places[value], mean(scores[value])) for value in known]
    bars = spread if any(spread) else None
    axes.errorbar(*zip(*points, strict=True), yerr=bars, label=label, marker="o", capsize=3, **line_style(number))
    return points


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf


def place_values(axes: Axes, values: Sequence[str]) -> dict[str, float]:
    """Label the horizontal axis with values of an argument, and return where each stands."""
    values = list(dict.fromkeys(values))
    numbers = {value: _as_number(value) for value in values}
    panel = axes.get_subplotspec()
    width = WIDTH / (panel.get_gridspec().ncols if panel else 1) - 0.8  # inches, about
    positive = [number for number in numbers.values() if number > 0]
    is_wide = bool(positive) and max(positive) > 10 * min(positive)
    # Values that are no numbers stand side by side, and so do 0 and numbers that need a logarithmic axis.
    if any(math.isinf(number) for number in numbers.values()) or (is_wide and len(positive) < len(values)):
        ordered = values if math.inf in numbers.values() else sorted(values, key=lambda value: numbers[value])
        places = {value: float(place) for place, value in enumerate(ordered)}
        axes.set_xticks(range(len(ordered)), ordered)
        if len(with_room(places, width)) < len(ordered):
            axes.set_xticks(range(len(ordered)), ordered, rotation=30, ha="right", rotation_mode="anchor")
        return places
    if len(positive) == len(values):
        axes.set_xscale("log")
        axes.minorticks_off()
        shown = with_room({value: math.log(number) for value, number in numbers.items()}, width)
    else:
        shown = with_room(numbers, width)
    axes.set_xticks([numbers[value] for value in shown], shown)
    return numbers


def with_room(places: Mapping[str, float], width: float) -> list[str]:
    """Return the outermost labels, and those between that have room on an axis of so many inches."""
    ordered = sorted(places, key=lambda label: places[label])
    scale = width / ((places[ordered[-1]] - places[ordered[0]]) or 1.0)

    def fits(label: str, other: str) -> bool:
        return abs(places[label] - places[other]) * scale > CHARACTER * (len(label) + len(other)) / 2 + 0.05

    shown = ordered[:1]
    for label in ordered[1:-1]:
        if fits(label, shown[-1]) and fits(label, ordered[-1]):
            shown.append(label)
    return shown if len(ordered) == 1 else [*shown, ordered[-1]]


def _share_limits(axes: Axes, places: Sequence[float]) -> None:
    """Let the horizontal axis reach over all places, with a margin, whichever have points."""
    first, last = min(places), max(places)
    if first == last:
        return
    if axes.get_xscale() == "log":
        margin = (last / first) ** 0.06
        axes.set_xlim(first / margin, last * margin)
    else:
        axes.set_xlim(first - 0.06 * (last - first), last + 0.06 * (last - first))


# Learning rates


@plot_style()
def plot_schedules(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], path: str | os.PathLike[str]) -> None:
    """Plot `curves`, {schedule: (steps, its learning rate at each)}, each in a small panel."""
    columns = min(3, len(curves))  # of four, the longest names would not fit
    rows = -(-len(curves) // columns)
    figure, axes = new_figure(columns, rows, height=0.4 + 1.45 * rows)
    highest = max(max(rates) for _, rates in curves.values())
    for number, (panel, (name, (steps, rates))) in enumerate(zip(axes, curves.items(), strict=False)):
        panel.plot(steps, rates, color=COLORS[0])
        panel.set_title(name, fontsize=9)
        panel.set_ylim(0, 1.08 * highest)
        panel.locator_params(nbins=3)
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        if number % columns:
            panel.tick_params(labelleft=False)
    for panel in axes[len(curves) :]:
        panel.set_visible(False)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel("learning rate", fontsize=9)
    save_figure(figure, path)


@plot_style()
def plot_lr_range(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float,
    path: str | os.PathLike[str],
) -> None:
    """Plot loss against learning rate, raw and smoothed, with the suggested learning rate."""
    from matplotlib.ticker import LogFormatter

    height = 3.8
    figure, (axes,) = new_figure(1, height=height)
    axes.plot(rates, losses, color=COLORS[5], alpha=0.6)
    axes.plot(rates, smoothed, color=COLORS[0])
    axes.axvline(suggestion, color=COLORS[1], linestyle="--")
    axes.set(xscale="log", xlabel="learning rate", title="training loss in the learning-rate range test")
    top = axes.get_ylim()[1]
    axes.annotate(f"suggested {suggestion:.2g} ", (suggestion, top), color=COLORS[1], va="top", ha="right")
    axes.margins(x=0.01)
    # matplotlib's default labels are formulas. Between powers of ten only a short range is labelled.
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    ends = {"each step": (losses[-1], COLORS[5]), "smoothed": (smoothed[-1], COLORS[0])}
    label_ends(axes, ends, 0.8 * height)
    save_figure(figure, path)


# Images


def show_image(axes: Axes, image: np.ndarray) -> None:
    """Show an image, uint8 (height, width, 3), in a thin frame, without which one on white would seem open."""
    axes.imshow(image, interpolation="nearest")
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color="#bbbbbb", linewidth=0.6)


@plot_style()
def plot_images(
    columns: Sequence[tuple[str, np.ndarray, Sequence[str] | None]], path: str | os.PathLike[str], title: str
) -> None:
    """
    Plot a table of images; `columns` are triples of a title, images uint8 (rows, height, width, 3) and, for each image,
    what stands under it, or None.
    """
    rows = len(columns[0][1])
    figure, axes = new_figure(len(columns), rows, width=1.1 * len(columns), height=1.4 * rows)
    figure.suptitle(title, fontsize="medium", wrap=True)
    for number, cell in enumerate(axes):
        row, column = divmod(number, len(columns))
        heading, images, captions = columns[column]
        show_image(cell, images[row])
        if row == 0:
            cell.set_title(heading, fontsize="medium", loc="center")
        if captions:
            cell.set_xlabel(captions[row], fontsize="small")
    save_figure(figure, path, dpi=120, svg=False)
