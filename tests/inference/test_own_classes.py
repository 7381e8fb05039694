"""Images of one's own: the classes of a dataset are found in a model by their names, and may be some of them alone."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_cifar_resnet import CifarResNetForImageClassification
from hf_cifar_resnet.checkpoints.load import load_checkpoint, load_data_for
from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.data.arguments import DataArguments
from hf_cifar_resnet.data.splits import ImageSplits
from hf_cifar_resnet.documents import read_json
from hf_cifar_resnet.evaluation.analysis import fit_temperature
from hf_cifar_resnet.inference.space import write_examples

from .conftest import COLOURS

REPOSITORY = Path(__file__).parents[2]
SHIPPED = REPOSITORY / "model_cards" / "resnet20-cifar100"


@pytest.fixture
def photographs(tmp_path):
    """A folder with two classes of CIFAR-100, in which a bicycle is called a whale."""
    for place, name in (("castle/1", "castle"), ("whale/1", "whale"), ("whale/2", "bicycle")):
        path = tmp_path / "photographs" / "test" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "tests" / "images" / f"{name}.png", path)
    return tmp_path / "photographs"


@pytest.fixture
def write_colours(tmp_path):
    """
    Writes a folder of noisy images, `{split: {class: colours}}`, one image for each colour. The folder numbers classes
    by the alphabet: blue, green, red, which are 2, 1, 0 in the model.
    """

    def write(splits, name="colours"):
        generator = np.random.default_rng(0)
        for split, classes in splits.items():
            for label, colours in classes.items():
                for number, colour in enumerate(colours):
                    path = tmp_path / name / split / label / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    pixels = np.array(COLOURS[colour]) + generator.normal(0, 60, (32, 32, 3))
                    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
        return ["--dataset_name", str(tmp_path / name), "--use_cpu"]

    return write


def evaluate(*arguments, json_file):
    cli(["evaluate", *map(str, arguments), "--json", str(json_file)])
    return read_json(json_file)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_some_classes_of_a_hundred(photographs, tmp_path, capsys):
    """Each image is scored as the model's answer for it says, and the tables have what is there."""
    folder = tmp_path / "analysis"
    data = ["--dataset_name", photographs, "--use_cpu", "--precision", "fp32"]
    scores = evaluate(SHIPPED, *data, "--flip", "--output_dir", folder, json_file=tmp_path / "scores.json")
    model, processor = load_checkpoint(SHIPPED)
    files = ["castle/1", "whale/1", "whale/2"]
    images = [Image.open(photographs / "test" / f"{name}.png") for name in files]
    logits = model(**processor(images, return_tensors="pt")).logits.detach()
    labels = [model.config.label2id[name.split("/")[0]] for name in files]
    losses = -logits.double().log_softmax(dim=1)[range(3), labels]
    assert scores["loss"] == pytest.approx(float(losses.mean()), abs=1e-4)
    assert scores["top1"] == scores["flip"]["top1"] == pytest.approx(2 / 3)
    in_top5 = [label in row for label, row in zip(labels, logits.topk(5).indices.tolist(), strict=True)]
    assert scores["top5"] == pytest.approx(np.mean(in_top5))
    note = "only 2 of the model's 100 classes occur in these images (castle, whale); it chooses among all 100"
    assert scores["note"] == note and capsys.readouterr().out.count(note) == 1
    # There is no telling the superclass of what the model answers from these images.
    assert "superclass" not in scores and not (folder / "superclass_confusion.csv").exists()
    head, *rows = rows_of(folder / "per_class.csv")
    assert head == ["class", "images", "accuracy", "most_often_taken_for", "times"]
    assert rows == [["whale", "2", "0.5", "bicycle", "1"], ["castle", "1", "1.0", "", ""]]
    confusion = [["bicycle", "0", "0", "0"], ["castle", "0", "1", "0"], ["whale", "1", "0", "1"]]
    assert rows_of(folder / "confusion.csv") == [["label \\ predicted", "bicycle", "castle", "whale"], *confusion]
    found = read_json(folder / "analysis.json")
    assert found["accuracy"] == pytest.approx(2 / 3) and found["mean_class_accuracy"] == 0.75
    assert found["classes_with_images"] == 2 and found["calibration"][0]["loss"] == pytest.approx(scores["loss"])
    assert found["most_confused"] == [{"classes": ["bicycle", "whale"], "count": 1, "share": 0.5}]


def test_images_of_one_class(colour_checkpoint, write_colours, tmp_path):
    data = write_colours({"test": {"blue": ["blue", "blue", "red"]}})
    scores = evaluate(colour_checkpoint, *data, json_file=tmp_path / "scores.json")
    assert scores["top1"] == pytest.approx(2 / 3) and "only 1 of the model's 3 classes" in scores["note"]


def test_all_classes_in_another_order(colour_checkpoint, write_colours, tmp_path):
    data = write_colours({"test": {name: [name] * 4 for name in COLOURS}})
    scores = evaluate(colour_checkpoint, *data, json_file=tmp_path / "scores.json")
    assert scores["top1"] == 1 and scores["loss"] < 0.5 and "note" not in scores


def test_a_class_that_the_model_does_not_know_is_named(photographs, colour_checkpoint, write_colours, refused):
    (photographs / "test" / "castle").rename(photographs / "test" / "burg")
    line = refused("evaluate", SHIPPED, "--dataset_name", photographs, "--use_cpu")
    assert f"the dataset {photographs} has a class that the checkpoint {SHIPPED} does not know: burg;" in line
    data = write_colours({"test": {"red": ["red"], "Blue": ["blue"], "sky": ["blue"]}})
    assert "has classes that the checkpoint" in refused("evaluate", colour_checkpoint, *data)
    line = refused("export", colour_checkpoint, *data[:2], "--format", "torch", "--split", "test")
    assert "does not know: Blue, sky; it knows red, green, blue" in line


@pytest.fixture
def renumbered(colour_checkpoint, tmp_path):
    """The same model with the numbers of red and blue exchanged, names and weights alike: its answers are the same."""
    folder = tmp_path / "renumbered"
    shutil.copytree(colour_checkpoint, folder)
    model = CifarResNetForImageClassification.from_pretrained(folder)
    for values in (model.classifier.weight, model.classifier.bias):
        values.data = values.data[[2, 1, 0]]
    names = ["blue", "green", "red"]
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    model.save_pretrained(folder)
    return folder


def test_answers_count_by_name_whatever_their_numbers(colour_checkpoint, renumbered, write_colours, tmp_path):
    data = write_colours({"test": {"blue": ["blue", "red", "green"], "red": ["red"]}})
    scores = [evaluate(each, *data, json_file=tmp_path / "scores.json") for each in (colour_checkpoint, renumbered)]
    assert [each["top1"] for each in scores] == [0.5, 0.5]
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], abs=1e-6)


@pytest.mark.parametrize("how", ["--compare OTHER", "OTHER --ensemble"])
def test_checkpoints_of_other_numbers_are_not_put_together(colour_checkpoint, renumbered, write_colours, refused, how):
    data = write_colours({"test": {"blue": ["blue"], "red": ["red"]}})
    others = [renumbered if word == "OTHER" else word for word in how.split()]
    line = refused("evaluate", colour_checkpoint, *others, *data)
    assert f"the classes of {colour_checkpoint} and {renumbered} differ: class 0 is red in the first and blue" in line


def test_ensemble_and_comparison_on_some_classes(colour_checkpoint, write_colours, tmp_path):
    """With a model that answers red to everything."""
    one_sided = shutil.copytree(colour_checkpoint, tmp_path / "one-sided")
    model = CifarResNetForImageClassification.from_pretrained(one_sided)
    model.classifier.bias.data[0] += 1000
    model.save_pretrained(one_sided)
    data = write_colours({"test": {"blue": ["blue"] * 3 + ["red"], "red": ["red"]}})
    file = tmp_path / "scores.json"
    compared = evaluate(colour_checkpoint, "--compare", one_sided, *data, json_file=file)
    assert compared["top1"] == 0.8
    expected = {"top1": 0.2, "both": 1, "only_first": 3, "only_second": 0, "neither": 1}
    assert {name: compared["comparison"][name] for name in expected} == expected
    together = evaluate(colour_checkpoint, one_sided, "--ensemble", *data, json_file=file)
    assert [member["top1"] for member in together["members"]] == [0.8, 0.2]
    assert "only 2 of the model's 3 classes" in together["note"]


def test_temperature_needs_all_classes(colour_checkpoint, write_colours, refused, tmp_path, capsys):
    checkpoint = shutil.copytree(colour_checkpoint, tmp_path / "checkpoint")
    before = (checkpoint / "config.json").read_bytes()
    some = {name: [name] * 4 for name in ("blue", "red")}
    data = write_colours({"validation": some, "test": some}, "some")
    line = refused("evaluate", checkpoint, *data, "--calibrate")
    assert "--calibrate needs images of all 3 classes" in line and "has none of green" in line
    assert (checkpoint / "config.json").read_bytes() == before
    mistaken = {name: [name, name, name, "red"] for name in COLOURS}
    data = write_colours({"validation": mistaken, "test": mistaken}, "all")
    cli(["evaluate", str(checkpoint), *data, "--calibrate"])
    splits = load_data_for("", DataArguments(data[1]), *load_checkpoint(checkpoint), {"validation"})
    pixels = splits.validation.__getitems__(range(12))["pixel_values"]
    logits = CifarResNetForImageClassification.from_pretrained(checkpoint).eval()(pixels).logits.detach().numpy()
    of_model = [list(COLOURS).index(name) for name in ("blue", "green", "red") for _ in range(4)]
    saved = json.loads((checkpoint / "config.json").read_text())["calibration_temperature"]
    assert saved == pytest.approx(fit_temperature(logits, of_model), rel=1e-3) and saved != 1


def test_export_is_measured_on_some_classes(colour_checkpoint, write_colours, refused, tmp_path, capsys):
    some = {"blue": ["blue"] * 3 + ["red"], "red": ["red"]}
    data = write_colours({"train": some, "test": some})[:2]
    output = ["--output", str(tmp_path / "model.pt2")]
    cli(["export", str(colour_checkpoint), *data, "--format", "torch", "--split", "test", *output])
    printed = capsys.readouterr().out
    assert "5 images: top-1 80.00%, PyTorch 80.00%" in printed and "only 2 of the model's 3 classes" in printed
    pytest.importorskip("onnxruntime", reason="not tested: ONNX files, since onnxruntime is not installed")
    onnx = ["--format", "onnx", "--precision", "int8", "--output", tmp_path / "model.onnx"]
    assert "int8 needs images of all 3 classes" in refused("export", colour_checkpoint, *data, *onnx)


def test_examples_of_the_demo_have_the_names_of_their_classes(colour_checkpoint, write_colours, tmp_path):
    data = write_colours({"test": {"blue": ["blue"], "red": ["red"]}})
    splits = load_data_for("", DataArguments(data[1]), *load_checkpoint(colour_checkpoint), {"test"})
    examples = write_examples(splits.test, splits.label_names, tmp_path)
    assert [path.name for path in examples] == ["0-red.png", "1-blue.png"]
    strongest = [int(np.asarray(Image.open(path)).mean(axis=(0, 1)).argmax()) for path in examples]
    assert strongest == [0, 2]


def test_superclasses_follow_their_classes():
    splits = ImageSplits(None, None, None, ["cat", "oak", "pine"], np.array([1, 0, 0]), [0.5] * 3, [0.25] * 3,
                         superclass_names=["tree", "pet"])  # fmt: skip
    assert splits.numbered_as(["pine", "cat", "oak"]).superclass_of.tolist() == [0, 1, 0]
    assert splits.numbered_as(["pine", "cat", "oak", "dog"]).superclass_of is None
