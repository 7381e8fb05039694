import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hf_cifar_resnet.reporting.error_report import plot_reliability
from hf_cifar_resnet.reporting.plots import plot_history, plot_lr_range, plot_study, plot_values


def rows(epochs, with_training=True, with_evaluation=True):
    trained = {"train_loss": 2.0, "train_accuracy": 0.25, "learning_rate": 0.1} if with_training else {}
    evaluated = {"eval_loss": 1.5, "eval_top1": 0.5, "eval_top5": 0.75} if with_evaluation else {}
    return [{"step": 10 * n, "epoch": float(n), **trained, **evaluated} for n in range(1, epochs + 1)]


@pytest.mark.parametrize(
    "history", [rows(1), rows(30), rows(3, with_training=False), rows(3, with_evaluation=False), []]
)
def test_picture_of_a_run(tmp_path, history):
    plot_history(history, tmp_path / "curves.png", "validation")
    with Image.open(tmp_path / "curves.png") as image:
        assert (image.format, image.size) == ("PNG", (1584, 408))
        image.verify()


def test_rates_are_labelled_without_formulas(tmp_path):
    rates = np.logspace(-6, 0, 50)
    plot_lr_range(rates, rates, rates, 1e-2, tmp_path / "range.svg")
    text = (tmp_path / "range.svg").read_text(encoding="utf-8")
    assert re.search("<!-- 1e.03 -->", text) and "$" not in text


def test_no_bar_of_a_reliability_diagram_is_covered(tmp_path):
    full = {"count": np.ones(15), "confidence": np.linspace(0, 1, 15), "accuracy": np.ones(15), "ece": 0.5}
    plot_reliability({1.0: full}, tmp_path / "bars.png")
    with Image.open(tmp_path / "bars.png") as image:
        bars = (np.asarray(image.convert("RGB")) == (0x00, 0x72, 0xB2)).all(axis=-1)
    _, columns = bars.nonzero()
    top = bars.any(axis=1).argmax()
    # All but the edges of the bars, and what marks the confidence.
    assert bars[top : top + 100, columns.min() : columns.max()].mean() > 0.85


def test_picture_shows_the_numbers(tmp_path):
    """Other numbers, another picture; the same numbers, the same picture."""

    def draw(history):
        plot_history(history, tmp_path / "curves.png", "validation")
        with Image.open(tmp_path / "curves.png") as image:
            return np.asarray(image.convert("RGB"))

    history = rows(5)
    changed = [row | {"eval_loss": row["epoch"]} for row in history]
    assert np.array_equal(draw(history), draw(history))
    differs = (draw(history) != draw(changed)).any(axis=(0, 2))
    # The middle third has the loss.
    assert differs[528:1056].any() and not differs[:500].any() and not differs[1084:].any()


@pytest.mark.parametrize("backend", ["nonsense", "svg"])
def test_backend_of_the_environment_does_not_matter_and_stays(tmp_path, backend):
    """In a process of its own: it is read when matplotlib is imported."""
    code = """
import os, sys
from hf_cifar_resnet.reporting.plots import plot_history
plot_history([], sys.argv[1], "validation")
import matplotlib
print(os.environ["MPLBACKEND"], matplotlib.get_backend())
"""
    environment = os.environ | {"MPLBACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "curves.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (tmp_path / "curves.png").stat().st_size > 10_000, done.stderr
    assert done.stdout.split() == [backend, "svg" if backend == "svg" else "agg"]


@pytest.mark.parametrize("length", [10, 40, 65])
def test_no_legend_is_cut_off(tmp_path, length):
    names = [f"{number}{'e' * length}" for number in range(6)]
    plot_study({name: [rows(5)] for name in names}, tmp_path / "curves.png", "validation")
    plot_values({name: {"1": [0.5], "2": [0.6]} for name in names}, tmp_path / "tuning.png", "learning_rate", "top-1")
    for path in ("curves.png", "tuning.png"):
        with Image.open(tmp_path / path) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert (pixels[:, [0, -1]] == 255).all(), path
