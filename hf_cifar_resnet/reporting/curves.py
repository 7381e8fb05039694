"""Pictures of a run."""


def new_figure(columns, rows=1, width=4.4, height=3.4):
    """A matplotlib figure that needs no display, and its axes as a flat list."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def plot_history(rows, path, split):
    """
    Accuracy, loss and learning rate over epochs, as a PNG.

    Args:
        rows: of [`~hf_cifar_resnet.reporting.records.history`].
        split (`str`): what the evaluations were on, for the legend.
    """
    figure, (accuracy, loss, rate) = new_figure(3)
    accuracies = {"train_accuracy": "train", "eval_top1": f"{split} top-1", "eval_top5": f"{split} top-5"}
    for axes, lines, title in (
        (accuracy, accuracies, "accuracy"),
        (loss, {"train_loss": "train (smoothed labels)", "eval_loss": split}, "loss"),
        (rate, {"learning_rate": None}, "learning rate"),
    ):
        for column, label in lines.items():
            points = [(row["epoch"], row[column]) for row in rows if column in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="o" if len(points) < 3 else None)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        if axes is not rate and axes.lines:
            axes.legend()
    accuracy.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    figure.savefig(path, dpi=120)
