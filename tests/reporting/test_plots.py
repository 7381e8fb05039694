import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hf_cifar_resnet import schedules
from hf_cifar_resnet.evaluation.analysis import Reliability
from hf_cifar_resnet.reporting.error_report import plot_confusion, plot_reliability
from hf_cifar_resnet.reporting.plots import (
    PICTURE,
    mean_over_seeds,
    new_figure,
    place_values,
    plot_final,
    plot_history,
    plot_images,
    plot_lr_range,
    plot_schedules,
    plot_study,
    plot_tuning,
    plot_values,
    scale_rates,
    spread_out,
    with_room,
)


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
        assert (image.format, image.size) == ("PNG", (1600, 1080))
        image.verify()


def test_rates_are_labelled_without_formulas(tmp_path):
    rates = np.logspace(-6, 0, 50)
    plot_lr_range(rates, rates, rates, 1e-2, tmp_path / "range.svg")
    text = (tmp_path / "range.svg").read_text(encoding="utf-8")
    assert re.search("<!-- 1e.03 -->", text) and "$" not in text


def drawn(path, color):
    """Where a picture has this color, of exactly these three bytes."""
    with Image.open(path) as image:
        return (np.asarray(image.convert("RGB")) == color).all(axis=-1)


def test_every_bin_of_a_reliability_diagram_shows(tmp_path):
    """Also one in which all images are wrong; each at its accuracy, with its gap to the diagonal."""
    count = np.array([0, 0, 3, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9])
    confidence, accuracy = count * 0.0, count * 0.0
    confidence[[2, 5, 14]], accuracy[[2, 5, 14]] = (0.16, 0.37, 0.98), (0, 1, 0.6)
    plot_reliability({1.0: Reliability(count, confidence, accuracy, ece=0.4)}, tmp_path / "bins.png")
    blue = drawn(tmp_path / "bins.png", (0x00, 0x72, 0xB2))[:560]  # above the legend
    rows, columns = blue.nonzero()
    starts = np.flatnonzero(np.diff(blue.any(axis=0).astype(int)) == 1)
    assert len(starts) == 3
    height = [rows[(columns >= start) & (columns < start + 40)].mean() for start in starts]
    assert height[1] < height[2] < height[0]
    assert drawn(tmp_path / "bins.png", (0xD5, 0x5E, 0x00)).sum() > 500


def test_all_titles_of_schedules_are_inside_the_picture(tmp_path):
    curves = {name: ([0, 1], [1.0, 0.0]) for name in schedules.names()}
    plot_schedules(curves, tmp_path / "schedules.png")
    with Image.open(tmp_path / "schedules.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert (pixels[:, :8] == 255).all() and (pixels[:, -8:] == 255).all()


def test_images_have_a_frame_all_around(tmp_path):
    white = np.full((1, 8, 8, 3), 255, np.uint8)
    plot_images([("original", white, None)], tmp_path / "images.png", "")
    grey = drawn(tmp_path / "images.png", (0xBB, 0xBB, 0xBB))
    assert [(grey.sum(axis=axis) > 50).sum() for axis in (0, 1)] == [2, 2]


def test_what_a_picture_does_not_show_is_said(tmp_path):
    plot_history(rows(3), tmp_path / "curves.png", "validation")
    assert "<!-- learning rate at the end of each epoch -->" in (tmp_path / "curves.svg").read_text(encoding="utf-8")
    within = [row | {"epoch": row["epoch"] / 2} for row in rows(3)]
    plot_study({"cosine": [within]}, tmp_path / "study.png", "validation")
    assert "<!-- learning rate at each logged step -->" in (tmp_path / "study.svg").read_text(encoding="utf-8")
    plot_history(rows(3, with_evaluation=False), tmp_path / "curves.png", "none")
    text = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert "<!-- train accuracy, last third -->" in text and "none top-1" not in text
    plot_confusion(np.eye(3, dtype=int), ["a", "b", "c"], tmp_path / "confusion.png")
    text = (tmp_path / "confusion.svg").read_text(encoding="utf-8")
    assert "<!-- numbers: images; colors: shares -->" in text and "<!-- share of the label's images -->" in text


def test_picture_shows_the_numbers(tmp_path):
    """Other numbers, another picture; the same numbers, the same picture."""

    def draw(history):
        plot_history(history, tmp_path / "curves.png", "validation")
        with Image.open(tmp_path / "curves.png") as image:
            return np.asarray(image.convert("RGB"))

    history = rows(5)
    changed = [row | {"eval_loss": row["epoch"]} for row in history]
    assert np.array_equal(draw(history), draw(history))
    differs = (draw(history) != draw(changed)).any(axis=2)
    # The loss is at the upper right.
    assert differs[:540, 800:].any() and not differs[:, :700].any() and not differs[600:].any()


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


def test_svg_is_the_same_again_and_has_no_formulas(tmp_path):
    """Neither dates nor random ids, and other figures of the process keep their formulas."""
    import matplotlib

    for name in ("a", "b"):
        plot_study({"class $5$ and $6$": [rows(5)], "cosine": [rows(5)]}, tmp_path / f"{name}.png", "validation")
    first, second = (tmp_path / f"{name}.svg" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes() and b"<!-- class $5$ and $6$ -->" in first.read_bytes()
    assert re.search(PICTURE, first.read_bytes(), re.DOTALL)
    assert matplotlib.rcParams["text.parse_math"]


@pytest.mark.parametrize("spread, scale", [(3, "linear"), (100, "log")])
def test_rates_of_several_decades_have_a_logarithmic_axis(spread, scale):
    _, (axes,) = new_figure(1)
    scale_rates(axes, [[1e-3, 1e-3], [1e-3 * spread, 0.0]])
    assert axes.get_yscale() == scale


def test_labels_at_the_ends_of_lines_do_not_overlap():
    assert spread_out([0.2, 0.5, 0.8], 0.1) == [0.2, 0.5, 0.8]
    places = spread_out([0.0, 0.01, 0.5, 0.51, 0.52, 1.0], 0.1)
    assert places == pytest.approx([0.0, 0.1, 0.41, 0.51, 0.61, 1.0])
    assert spread_out([1.0, 1.0, 1.0], 0.2) == pytest.approx([0.6, 0.8, 1.0])


def test_results_of_equal_seeds_are_joined(tmp_path):
    finals = {"constant": {1: 0.5, 2: 0.51}, "cosine": {1: 0.52, 3: 0.55}}
    plot_final(finals, {"constant": (0.4, 0.6)}, tmp_path / "final.png")
    text = (tmp_path / "final.svg").read_text(encoding="utf-8")
    assert "<!-- constant (n = 2) -->" in text and "<!-- 55% -->" in text
    assert "lines join the results of one seed -->" in text


def test_every_variant_has_a_panel_of_its_tuning(tmp_path):
    tried = {f"variant {number}": {("1e-3", "0.05"): 0.5, ("1e-2", "0.05"): 0.6, ("1e-2", "0.5"): 0.55}
             for number in range(5)}  # fmt: skip
    chosen = dict.fromkeys(tried, ("1e-2", "0.05"))
    plot_tuning(tried, chosen, ["learning_rate", "weight_decay"], tmp_path / "tuning.png", "validation")
    text = (tmp_path / "tuning.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in text for name in (*tried, "weight_decay 0.5", "1e-3", "learning_rate"))


def test_names_of_several_words_are_broken_into_lines(tmp_path):
    """Those of panels would lie over each other, and those beside axes would leave no room for them."""
    names = [f"cosine with warmup, learning_rate 0.001, weight_decay 0.{number}" for number in range(3)]
    plot_final({name: {1: 0.5, 2: 0.6} for name in names}, {}, tmp_path / "final.png")
    plot_tuning({name: {("1",): 0.5} for name in names}, dict.fromkeys(names, ("1",)), ["depth"],
                tmp_path / "tuning.png", "validation")  # fmt: skip
    for picture in ("final", "tuning"):
        text = (tmp_path / f"{picture}.svg").read_text(encoding="utf-8")
        assert not any(f"<!-- {name}" in text for name in names) and "cosine with warmup" in text
        with Image.open(tmp_path / f"{picture}.png") as image:
            pixels = np.asarray(image.convert("RGB"))
        assert (pixels[:, [0, -1]] == 255).all() and (pixels[[0, -1]] == 255).all()


def test_values_are_labelled_where_there_is_room():
    assert with_room({"1e-3": 0.0, "1e-2": 1.0, "1e-1": 2.0}, 2.0) == ["1e-3", "1e-2", "1e-1"]
    assert with_room({"0.000121": 0.0, "0.00118": 0.1, "0.00483": 0.5, "0.0381": 1.0}, 2.0) == [
        "0.000121", "0.00483", "0.0381",
    ]  # fmt: skip
    assert with_room({"0.1": 5.0}, 2.0) == ["0.1"]


def test_weight_decays_with_zero_stand_side_by_side(tmp_path):
    """0 has no place on a logarithmic axis, and the others would lie on it on a linear one."""
    axes = new_figure(3)[1][0]
    assert place_values(axes, ["0.5", "0", "0.0005"]) == {"0": 0.0, "0.0005": 1.0, "0.5": 2.0}


def test_points_of_many_combinations_leave_room_for_the_axes(tmp_path):
    tried = {"a": {(f"1e-{number}", f"0.{number}"): 0.5 for number in range(1, 21)}}
    plot_tuning(tried, {"a": ("1e-1", "0.1")}, ["learning_rate", "weight_decay"], tmp_path / "tuning.png", "test")
    text = (tmp_path / "tuning.svg").read_text(encoding="utf-8")
    assert "<!-- each with its own weight_decay -->" in text and "<!-- weight_decay 0.1 -->" not in text


def test_axis_of_a_low_tuning_picture_is_labelled_inside(tmp_path):
    tried = {name: {("1e-3",): 0.5, ("1e-2",): 0.6} for name in ("constant", "cosine")}
    plot_tuning(tried, dict.fromkeys(tried, ("1e-2",)), ["learning_rate"], tmp_path / "tuning.png", "validation")
    with Image.open(tmp_path / "tuning.png") as image:
        label = np.asarray(image.convert("L"))[:, :60]
    rows = np.flatnonzero((label < 128).any(axis=1))
    assert rows.min() > 40 and rows.max() < len(label) - 40


@pytest.mark.parametrize("length", [10, 40, 65])
def test_no_legend_is_cut_off(tmp_path, length):
    names = [f"{number}{'e' * length}" for number in range(6)]
    plot_study({name: [rows(5)] for name in names}, tmp_path / "curves.png", "validation")
    plot_values({name: {"1": [0.5], "2": [0.6]} for name in names}, tmp_path / "tuning.png", "learning_rate", "top-1")
    for path in ("curves.png", "tuning.png"):
        with Image.open(tmp_path / path) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert (pixels[:, [0, -1]] == 255).all(), path


def test_mean_over_seeds_ends_where_the_first_of_them_stopped():
    long, short = (
        [{"epoch": float(epoch), "eval_top1": top1} for epoch in range(1, n)] for n, top1 in ((6, 0.4), (4, 0.2))
    )
    epochs, means = mean_over_seeds([long, short], "eval_top1")
    assert epochs == [1, 2, 3] and means == pytest.approx([0.3, 0.3, 0.3])
    assert mean_over_seeds([[], []], "eval_top1") == ([], [])
