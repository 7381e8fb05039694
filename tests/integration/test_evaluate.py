"""`evaluate` on a run: the error analysis, calibration, mirror images, and the comparison of two checkpoints."""

import contextlib
import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from hf_cifar_resnet import CifarResNetForImageClassification, load_splits
from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.evaluation.analysis import negative_log_likelihood
from hf_cifar_resnet.reporting.records import read_json
from hf_cifar_resnet.training.checkpoints import damage


@pytest.fixture(scope="module")
def images(finished):
    """The run's own splits, without augmentation."""
    return load_splits("shapes100", max_train_samples=400, max_eval_samples=200, augmentation="none")


def logits_of(folder, images, flip=False):
    """Without Trainer."""
    model = CifarResNetForImageClassification.from_pretrained(folder).eval()
    pixels = images.__getitems__(range(len(images)))["pixel_values"]
    return model(pixel_values=pixels.flip(3) if flip else pixels).logits.detach().numpy()


def evaluate(*arguments):
    cli(["evaluate", *map(str, arguments), "--use_cpu"])


@pytest.fixture(scope="module")
def analysis(finished, tmp_path_factory):
    """The folder of an analysis, and what was printed."""
    folder = tmp_path_factory.mktemp("analysis") / "of" / "run"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluate(finished.folder, "--output_dir", folder)
    return folder, printed.getvalue()


@pytest.fixture(scope="module")
def analysed(analysis):
    return analysis[0]


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return header, rows


def test_confusion_counts_every_image_once(finished, images, analysed):
    header, rows = table(analysed / "confusion.csv")
    assert header[1:] == [row[0] for row in rows] == images.label_names
    counts = np.array([row[1:] for row in rows], dtype=int)
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(images.test.labels, minlength=100))
    top1 = read_json(finished.folder / "metrics.json")["test"]["top1"]
    assert counts.trace() / 200 == pytest.approx(top1)
    _, grouped = table(analysed / "superclass_confusion.csv")
    shapes = np.array([row[1:] for row in grouped], dtype=int)
    assert [row[0] for row in grouped] == list(dict.fromkeys(name.split()[-1] for name in images.label_names))
    superclass = read_json(finished.folder / "metrics.json")["test"]["superclass"]
    assert shapes.sum() == 200 and shapes.trace() / 200 == pytest.approx(superclass)


def test_classes_are_listed_worst_first(analysed):
    header, rows = table(analysed / "per_class.csv")
    assert header == ["class", "superclass", "images", "accuracy", "most_often_taken_for", "times"]
    accuracies = [float(row[3]) for row in rows]
    assert accuracies == sorted(accuracies) and len(rows) == 100
    assert all(row[0] != row[4] for row in rows)


@pytest.mark.parametrize("name", ["confusion", "superclass_confusion", "reliability", "mistakes"])
def test_pictures_are_drawn(analysed, name):
    with Image.open(analysed / f"{name}.png") as image:
        assert min(image.size) > 400 and len(set(image.convert("L").resize((64, 64)).tobytes())) > 10


def test_scores_are_printed_as_without_analysis(finished, analysis):
    folder, printed = analysis
    top1 = read_json(finished.folder / "metrics.json")["test"]["top1"]
    ece = read_json(folder / "analysis.json")["calibration"][0]["ece"]
    assert f"top1       {top1:.2%}\n" in printed and f"ece        {ece:.2%}" in printed


def test_mirror_images_are_reported_apart(finished, images, tmp_path, capsys):
    evaluate(finished.folder, "--flip", "--json", tmp_path / "scores.json")
    scores = read_json(tmp_path / "scores.json")
    flip = scores.pop("flip")
    expected = read_json(finished.folder / "metrics.json")["test"]
    assert scores == expected | {"loss": pytest.approx(expected["loss"], abs=1e-6)}
    both = [np.exp(logits_of(finished.folder, images.test, flip)) for flip in (False, True)]
    mean = sum(each / each.sum(axis=1, keepdims=True) for each in both) / 2
    labels = images.test.labels.numpy()
    assert flip["loss"] == pytest.approx(-np.log(mean[np.arange(200), labels]).mean(), abs=1e-4)
    assert flip["top1"] == pytest.approx((mean.argmax(axis=1) == labels).mean())
    assert "--flip" in capsys.readouterr().out


def test_temperature_is_fitted_on_validation_and_saved(finished, images, tmp_path, capsys):
    run = shutil.copytree(finished.folder, tmp_path / "run")
    evaluate(run, "--calibrate", "--output_dir", tmp_path / "analysis")
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (finished.folder, run))
    temperature = after.pop("calibration_temperature")
    before.pop("calibration_temperature", None)
    assert after == before
    # No other temperature is better on the images it was fitted on.
    logits, labels = logits_of(run, images.validation), images.validation.labels.numpy()
    losses = [negative_log_likelihood(logits, labels, t) for t in (temperature, 0.9 * temperature, 1.1 * temperature)]
    assert min(losses) == losses[0] < negative_log_likelihood(logits, labels)
    assert f"temperature {temperature:.4g}, fitted on 200 validation images" in capsys.readouterr().out
    [plain, scaled] = read_json(tmp_path / "analysis" / "analysis.json")["calibration"]
    assert (plain["temperature"], scaled["temperature"]) == (1, pytest.approx(temperature))
    # What was calibrated is told the same again, and its logits are what they were.
    evaluate(run, "--output_dir", tmp_path / "again", "--json", tmp_path / "scores.json")
    assert read_json(tmp_path / "again" / "analysis.json") == read_json(tmp_path / "analysis" / "analysis.json")
    test_loss = read_json(finished.folder / "metrics.json")["test"]["loss"]
    assert read_json(tmp_path / "scores.json")["loss"] == pytest.approx(test_loss, abs=1e-6)


def test_calibrated_checkpoint_is_still_whole(finished, tmp_path):
    run = shutil.copytree(finished.folder, tmp_path / "run")
    evaluate(run / "checkpoint-6", "--calibrate")
    assert json.loads((run / "checkpoint-6" / "config.json").read_text())["calibration_temperature"] != 1
    assert damage(run / "checkpoint-6") is None


def test_two_checkpoints_are_compared(finished, images, quick, tmp_path, capsys):
    cli(["train", *quick, "--seed", "3", "--max_steps", "30", "--output_dir", str(tmp_path / "other")])
    capsys.readouterr()
    evaluate(finished.folder, "--compare", tmp_path / "other", "--json", tmp_path / "scores.json")
    found = read_json(tmp_path / "scores.json")["comparison"]
    labels = images.test.labels.numpy()
    here, there = (logits_of(f, images.test).argmax(axis=1) == labels for f in (finished.folder, tmp_path / "other"))
    assert found["only_first"] == (here & ~there).sum() and found["only_second"] == (there & ~here).sum()
    assert found["top1"] == pytest.approx(there.mean())
    assert f"exact McNemar test p = {found['p']:.3g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--calibrate", "--validation_fraction", "0"], "no validation split"),
        (["--compare", "nowhere"], "nowhere holds no checkpoint"),
        (["--output_dir", "file/inside"], "cannot be written"),
        (["--json", "no/such/folder.json"], "cannot be written"),
    ],
)
def test_bad_arguments(finished, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    before = (finished.folder / "config.json").read_text()
    with pytest.raises(SystemExit) as stopped:
        evaluate(finished.folder, *arguments)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert message in line and captured.out == ""
    assert (finished.folder / "config.json").read_text() == before
