"""`evaluate` on a run: the error analysis, calibration, mirror images, the comparison of two checkpoints, ensembles."""

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from hf_cifar_resnet import CifarResNetForImageClassification, load_splits
from hf_cifar_resnet.checkpoints.calibration import keeping_temperature
from hf_cifar_resnet.checkpoints.save import verify_checkpoint
from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.documents import read_json
from hf_cifar_resnet.evaluation.analysis import negative_log_likelihood


@pytest.fixture(scope="module")
def images(finished):
    """The run's own splits, without augmentation."""
    return load_splits("shapes100", max_train_samples=400, max_eval_samples=200, augmentation="none")


# Another architecture, image size and normalisation.
OTHER = "--stage_depths 1 1 --stage_widths 16 24 --image_size 24 --max_steps 30 --seed 3".split()
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


@pytest.fixture(scope="module")
def other(quick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("other") / "run"
    normalisation = [str(word) for name, values in HALF.items() for word in (f"--{name}", *values)]
    cli(["train", *quick, *OTHER, *normalisation, "--output_dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def other_images():
    """The images of [`images`] as `other` sees them."""
    options = {"max_train_samples": 400, "max_eval_samples": 200, "augmentation": "none", "image_size": 24}
    return load_splits("shapes100", **options, **HALF)


def probabilities_of(*arguments):
    return softmax(logits_of(*arguments).astype(np.float64), axis=1)


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


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return header, rows


def test_confusion_counts_every_image_once(finished, images, analysis):
    analysed, printed = analysis
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

    ece = read_json(analysed / "analysis.json")["calibration"][0]["ece"]
    assert f"top1       {top1:.2%}\n" in printed and f"expected calibration error (ECE) {ece:.2%}, loss " in printed


def test_classes_are_listed_worst_first(analysis):
    header, rows = table(analysis[0] / "per_class.csv")
    assert header == ["class", "superclass", "images", "accuracy", "most_often_taken_for", "times"]
    accuracies = [float(row[3]) for row in rows]
    assert accuracies == sorted(accuracies) and len(rows) == 100
    assert all(row[0] != row[4] for row in rows)


def test_pictures_are_drawn(analysis):
    for name in ("confusion", "superclass_confusion", "reliability", "mistakes"):
        with Image.open(analysis[0] / f"{name}.png") as image:
            assert min(image.size) > 400 and len(set(image.convert("L").resize((64, 64)).tobytes())) > 10


def test_digits_are_those_that_training_wrote(finished, quick, tmp_path):
    """To the bit, in fp32 and in bf16, on another batch for each split."""
    in_bf16 = tmp_path / "run"
    cli(["train", *quick, "--bf16", "true", "--ema_decay", "0.5", "--output_dir", str(in_bf16)])
    for run, precision in ((finished.folder, "fp32"), (in_bf16, "bf16")):
        assert read_json(run / "run.json")["precision"] == precision
        for split in ("validation", "test"):
            evaluate(run, "--split", split, "--json", tmp_path / "scores.json")
            assert read_json(tmp_path / "scores.json") == read_json(run / "metrics.json")[split]


def test_mirror_images_are_reported_apart(finished, images, tmp_path, capsys):
    evaluate(finished.folder, "--flip", "--json", tmp_path / "scores.json")
    scores = read_json(tmp_path / "scores.json")
    flip = scores.pop("flip")
    expected = read_json(finished.folder / "metrics.json")["test"]
    assert scores == expected
    mean = np.mean([probabilities_of(finished.folder, images.test, flip) for flip in (False, True)], axis=0)
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
    # A second evaluation uses the saved temperature and reports the same; the logits have not changed.
    evaluate(run, "--output_dir", tmp_path / "again", "--json", tmp_path / "scores.json")
    assert read_json(tmp_path / "again" / "analysis.json") == read_json(tmp_path / "analysis" / "analysis.json")
    test_loss = read_json(finished.folder / "metrics.json")["test"]["loss"]
    assert read_json(tmp_path / "scores.json")["loss"] == pytest.approx(test_loss, abs=1e-6)


def test_temperature_survives_a_resume_without_a_step(finished, quick, tmp_path):
    run = shutil.copytree(finished.folder, tmp_path / "run")
    evaluate(run, "--calibrate")
    calibrated = read_json(run / "config.json")
    cli(["train", *quick, "--output_dir", str(run), "--resume_from_checkpoint", "auto"])
    assert read_json(run / "config.json") == calibrated and calibrated["calibration_temperature"] != 1
    with keeping_temperature(run):  # of other weights
        (run / "config.json").write_text("{}")
        (run / "model.safetensors").write_bytes(b"trained on")
    assert read_json(run / "config.json") == {}


def test_calibrated_checkpoint_is_complete_and_a_linked_one_unchanged(finished, tmp_path, refused):
    run = shutil.copytree(finished.folder, tmp_path / "run")
    evaluate(run / "checkpoint-6", "--calibrate")
    assert json.loads((run / "checkpoint-6" / "config.json").read_text())["calibration_temperature"] != 1
    verify_checkpoint(run / "checkpoint-6")
    # The Hub's cache consists of links.
    config = (run / "config.json").rename(tmp_path / "config.json")
    (run / "config.json").symlink_to(config)
    before = config.read_text()
    assert "config.json, which is a link" in refused("evaluate", run, "--calibrate", "--use_cpu")
    assert config.read_text() == before


def test_ensemble_is_the_mean_of_the_probabilities(finished, other, images, other_images, tmp_path, capsys):
    # The second alone is compared with the first.
    for number, words in enumerate([[finished.folder], [other, "--compare", finished.folder]]):
        evaluate(*words, "--dataset_name", "shapes100", "--json", tmp_path / f"{number}.json")
    alone = [read_json(tmp_path / f"{number}.json") for number in (0, 1)]
    compared = alone[1].pop("comparison")
    assert f"exact McNemar test p = {compared['p']:.3g}" in capsys.readouterr().out
    evaluate(finished.folder, other, "--ensemble", "--flip", "--compare", other, "--json", tmp_path / "scores.json",
             "--output_dir", tmp_path / "analysis")  # fmt: skip
    printed = capsys.readouterr().out
    scores = read_json(tmp_path / "scores.json")
    seen = [(finished.folder, images.test), (other, other_images.test)]
    labels = images.test.labels.numpy()
    right, other_right = (logits_of(*of).argmax(axis=1) == labels for of in seen)
    assert compared["only_first"] == (other_right & ~right).sum() and compared["top1"] == pytest.approx(right.mean())
    assert compared["only_second"] == (right & ~other_right).sum()
    plain, mirrored = (np.mean([probabilities_of(*of, flip) for of in seen], axis=0) for flip in (False, True))
    for found, mean in ((scores, plain), (scores["flip"], (plain + mirrored) / 2)):
        assert found["top1"] == pytest.approx((mean.argmax(axis=1) == labels).mean())
        in_top5 = (np.argsort(-mean, axis=1)[:, :5] == labels[:, None]).any(axis=1)
        assert found["top5"] == pytest.approx(in_top5.mean())
        assert found["loss"] == pytest.approx(-np.log(mean[np.arange(200), labels]).mean(), abs=1e-4)
    assert [member.pop("checkpoint") for member in scores["members"]] == [str(finished.folder), str(other)]
    assert scores["members"] == [pytest.approx(each) for each in alone]
    assert "ensemble of 2 checkpoints on test of shapes100, 200 images" in printed
    assert all(f"{folder}: loss {each['loss']:.4f}, top1 {each['top1']:.2%}" in printed
               for folder, each in zip((finished.folder, other), alone, strict=True))  # fmt: skip
    # What else can be asked of a checkpoint is answered for the ensemble.
    right = int((plain.argmax(axis=1) == labels).sum())
    assert scores["comparison"]["both"] + scores["comparison"]["only_first"] == right
    counts = np.array([row[1:] for row in table(tmp_path / "analysis" / "confusion.csv")[1]], dtype=int)
    assert counts.trace() == right


@pytest.mark.parametrize("again", ["itself", "its best checkpoint", "a copy", "a calibrated copy"])
def test_same_model_twice_is_refused(finished, other, tmp_path, refused, again):
    """As an ensemble it would be its own mean, and nothing would differ from it."""
    copy = shutil.copytree(finished.folder, tmp_path / "copy")
    if again == "a calibrated copy":
        evaluate(copy, "--calibrate")
    best = max(
        finished.folder.glob("checkpoint-*"), key=lambda path: read_json(path / "trainer_state.json")["best_metric"]
    )
    best = finished.folder / Path(read_json(best / "trainer_state.json")["best_model_checkpoint"]).name
    second = {"itself": finished.folder, "its best checkpoint": best}.get(again, copy)
    line = refused("evaluate", finished.folder, "--compare", second, "--use_cpu")
    assert f"--compare {second} has the same weights as {finished.folder}" in line
    line = refused("evaluate", finished.folder, other, second, "--ensemble", "--use_cpu")
    assert f"{second} is named twice" in line or f"{second} has the same weights as {finished.folder}" in line


def test_members_of_an_ensemble_know_the_same_classes(finished, tmp_path, refused):
    renamed = shutil.copytree(finished.folder, tmp_path / "renamed")
    config = json.loads((renamed / "config.json").read_text())
    config["id2label"]["3"], config["id2label"]["4"] = config["id2label"]["4"], config["id2label"]["3"]
    config["label2id"] = {name: int(number) for number, name in config["id2label"].items()}
    (renamed / "config.json").write_text(json.dumps(config))
    names = config["id2label"]
    line = refused("evaluate", finished.folder, renamed, "--ensemble", "--use_cpu")
    assert f"the classes of {finished.folder} and {renamed} differ" in line
    assert f"class 3 is {names['4']} in the first and {names['3']} in the second" in line


@pytest.fixture(scope="module")
def holds_out_others(quick, tmp_path_factory):
    """A run like `finished` that held out other images."""
    folder = tmp_path_factory.mktemp("others") / "run"
    cli(["train", *quick, "--split_seed", "5", "--output_dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def trained_on_all(quick, tmp_path_factory):
    folder = tmp_path_factory.mktemp("all") / "run"
    cli(["train", *quick, "--eval_split", "none", "--validation_fraction", "0", "--output_dir", str(folder)])
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "evaluate RUN OTHER --ensemble --split validation",
        "evaluate RUN --compare OTHER --split validation",
        "evaluate RUN --split validation --split_seed 5",
        "evaluate RUN --split validation --validation_fraction 0.2",
        "evaluate RUN --calibrate --split_seed 5",
        "evaluate ALL --calibrate --validation_fraction 0.1",
        "evaluate RUN --compare ALL --split validation",
        "export RUN --format torch --split validation --split_seed 5 --output m.pt2",
    ],
)
def test_scores_on_training_images_are_refused(
    finished, holds_out_others, trained_on_all, refused, tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    runs = {"RUN": str(finished.folder), "OTHER": str(holds_out_others), "ALL": str(trained_on_all)}
    line = refused(*[runs.get(word, word) for word in command.split()])
    assert "was trained on some of these validation images" in line and "eval_split" not in line
    assert not list(tmp_path.iterdir())


def test_test_images_are_compared_whatever_was_held_out(finished, holds_out_others, tmp_path):
    evaluate(finished.folder, "--compare", holds_out_others, "--json", tmp_path / "scores.json")
    assert read_json(tmp_path / "scores.json")["comparison"]["checkpoint"] == str(holds_out_others)


@pytest.mark.parametrize("command", ["evaluate RUN", "export RUN --format torch", "demo RUN"])
@pytest.mark.parametrize(
    "argument",
    [
        "image_size 64", "image_mean 0.1 0.1 0.1", "image_std 1 1 1", "augmentation none", "color_jitter 0 0 0 0",
        "random_erasing 1", "eval_split test",
    ],
)  # fmt: skip
def test_arguments_without_effect_are_refused(finished, refused, command, argument):
    arguments = [str(finished.folder) if word == "RUN" else word for word in command.split()]
    assert f"--{argument.split()[0]} has no effect here" in refused(*arguments, *f"--{argument}".split())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--ensemble"], "--ensemble needs two checkpoints or more"),
        (["RUN/checkpoint-6"], "add --ensemble"),
        (["RUN/checkpoint-6", "--ensemble", "--calibrate"], "--calibrate needs a single checkpoint"),
        (["RUN/../run", "--ensemble"], "is named twice"),
        (["nowhere", "--ensemble"], "nowhere is neither a folder nor user/repo"),
        (["--calibrate", "--validation_fraction", "0"], "no validation split"),
        (["--compare", "nowhere"], "nowhere is neither a folder nor user/repo"),
        (["--output_dir", "file/inside"], "cannot be written"),
        (["--json", "no/such/folder.json"], "cannot be written"),
        (["--json", ""], "--json must not be empty"),
        (["--output_dir", ""], "--output_dir must not be empty"),
        (["--split_seed", "-1"], "--split_seed must not be negative"),
        (["--dataset_name", ""], "--dataset_name must not be empty"),
    ],
)
def test_bad_arguments(finished, tmp_path, monkeypatch, refused, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    before = (finished.folder / "config.json").read_text()
    words = (word.replace("RUN", str(finished.folder)) for word in arguments)
    assert message in refused("evaluate", finished.folder, *words, "--use_cpu")
    assert (finished.folder / "config.json").read_text() == before
