"""Images and checkpoints of people who mean no good, or whose disk does not: one line, and nothing of theirs runs."""

import contextlib
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel
from datasets import Image as ImageFeature
from PIL import Image
from run_fixtures import RECORD
from safetensors.torch import load_file, save_file

from hf_cifar_resnet.cli import main as cli

REPOSITORY = Path(__file__).parents[2]
UNSHOWABLE = {
    "bomb": ("2500000000 pixels", (50_000, 50_000)),
    "above the limit by a third": ("12,000 x 10,000 pixels are too many", (12_000, 10_000)),
    "no pixels": ("not an image", (0, 0)),
    "program": ("Ghostscript", lambda path: Image.new("RGB", (9, 9)).save(path, "EPS")),
    "empty": ("not an image", lambda path: path.write_bytes(b"")),
    "NaN": ("grey levels", lambda path: save(np.full((9, 9), np.nan, "f"), path, "TIFF")),
    "infinite": ("grey levels", lambda path: save(np.full((9, 9), np.inf, "f"), path, "TIFF")),
    "fractions": ("fractions from 0 to 1", lambda path: save(np.full((9, 9), 0.5, "f"), path, "TIFF")),
    "below zero": ("grey levels", lambda path: save(np.full((9, 9), -0.5, "f"), path, "TIFF")),
    "16 bits": ("grey levels", lambda path: save(np.full((9, 9), 9_000, np.uint16), path, "PNG")),
    "32 bits": ("grey levels", lambda path: save(np.full((9, 9), -5, np.int32), path, "TIFF")),
}


def save(array, path, kind):
    Image.fromarray(array).save(path, kind)


@pytest.mark.parametrize("message, write", UNSHOWABLE.values(), ids=UNSHOWABLE)
def test_image_that_cannot_be_shown_to_a_model(colour_checkpoint, tmp_path, capsys, png_that_claims, message, write):
    if isinstance(write, tuple):
        (tmp_path / "image").write_bytes(png_that_claims(*write))
    else:
        write(tmp_path / "image")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SystemExit) as stopped:
        cli(["predict", str(colour_checkpoint), str(tmp_path / "image"), "--use_cpu"])
    assert stopped.value.code == 1
    headline, line = capsys.readouterr().err.splitlines()
    assert headline == "1 of 1 files could not be read:" and message in line
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_name_of_a_file_cannot_write_to_the_terminal(colour_checkpoint, tmp_path, capsys):
    names = ["\x1b[2J red\n.png", 'söme "näme" 图.png']
    for name in names:
        Image.new("RGB", (9, 9), (220, 30, 30)).save(tmp_path / name)
    cli(["predict", str(colour_checkpoint), *(str(tmp_path / name) for name in names), "--use_cpu"])
    first, second = capsys.readouterr().out.splitlines()
    assert "\\x1b[2J red\\n.png" in first and names[1] in second


def test_output_that_has_not_all_characters(colour_checkpoint, tmp_path):
    Image.new("RGB", (9, 9), (220, 30, 30)).save(tmp_path / "图.png")
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with contextlib.redirect_stdout(output):
        cli(["predict", str(colour_checkpoint), str(tmp_path / "图.png"), "--use_cpu"])
    assert rb"\u56fe.png  red" in output.buffer.getvalue()


def test_output_that_is_closed(checkpoint, image, refused):
    with contextlib.redirect_stdout(None):
        assert "standard output is closed" in refused("predict", checkpoint, image)


# Checkpoints


@pytest.fixture
def checkpoint(colour_checkpoint, tmp_path):
    return shutil.copytree(colour_checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (9, 9), (220, 30, 30)).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


CONFIGURATIONS = {
    "a billion channels": ({"stage_widths": [10**9, 10**9]}, "must not make more than 1,000,000,000 weights"),
    "a billion blocks": ({"stage_depths": [10**9, 1]}, "must not make more than 1,000,000,000 weights"),
    "a billion classes": ({"id2label": None, "num_labels": 10**9}, "num_labels must be"),
    "more channels than weights": ({"num_channels": 7}, "its weights are not those of its config.json"),
    "text for a number": ({"dropout": "high"}, "dropout must be"),
    "NaN": ({"calibration_temperature": float("nan")}, "calibration_temperature must be above 0"),
    "another model": ({"model_type": "bert"}, "model_type must be cifar_resnet"),
    "a later format": ({"format_version": 99}, "update the package"),
    "a type that is none": ({"dtype": "save"}, "dtype must be one of"),
    "quantised": ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized weights are not supported"),
    "gaps": ({"id2label": {"0": "a", "5": "b", "7": "c"}}, "id2label must name each class number"),
    "list of labels": ({"id2label": ["a", "b", "c"]}, "id2label must name each class number"),
    "label that is a number": ({"id2label": {"0": 7, "1": "b", "2": "c"}}, "id2label must have a text for each class"),
}


@pytest.mark.parametrize("fields, message", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_wrong_configuration(checkpoint, image, refused, fields, message):
    change(checkpoint / "config.json", **fields)
    assert message in refused("predict", checkpoint, image)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[" * 200_000 + "]" * 200_000, "nested too deeply"),
        ("{", "not valid JSON"),
        ("[1]", "must hold a JSON object"),
        ("\0", "not valid JSON"),
        ('{"a": "' + "a" * 2**24 + '"}', "larger than"),
    ],
    ids=["deep", "broken", "list", "binary", "huge"],
)
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_wrong_json(checkpoint, image, refused, name, text, message):
    (checkpoint / name).write_text(text)
    assert message in refused("predict", checkpoint, image)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"image_processor_type": "CLIPImageProcessor"}, "must be ViTImageProcessor"),
        ({"size": {"height": 10**6, "width": 10**6}}, "from 1 to 1024"),
        ({"size": {"shortest_edge": 5}}, "equal height and width"),
        ({"size": {"height": 5, "width": 6}}, "equal height and width"),
        ({"image_std": [0, 0, 0]}, "image_std must be above 0"),
        ({"image_mean": [float("nan")] * 3}, "image_mean needs three numbers"),
        ({"image_mean": ["a", "b", "c"]}, "image_mean needs three numbers"),
        ({"image_std": [[1], None, {}]}, "image_std needs three numbers"),
        ({"image_mean": "x"}, "must be lists of three numbers"),
        ({"image_mean": None}, "must be lists of three numbers"),
        ({"do_rescale": False}, "do_rescale must be True"),
    ],
)
def test_wrong_image_processor(checkpoint, image, refused, fields, message):
    change(checkpoint / "preprocessor_config.json", **fields)
    assert message in refused("predict", checkpoint, image)


def test_pipe_in_a_checkpoint_is_not_waited_for(checkpoint, image, refused):
    (checkpoint / "preprocessor_config.json").unlink()
    os.mkfifo(checkpoint / "preprocessor_config.json")
    assert "preprocessor_config.json: it is not a regular file" in refused("predict", checkpoint, image)


def test_code_that_a_checkpoint_brings_or_names_is_not_run(checkpoint, image, tmp_path, capsys):
    """The model's own files may hold anything, and so may what its fields point at: our classes load it."""
    trap = f"open({str(tmp_path / 'trapped')!r}, 'w')\n"
    for file in checkpoint.glob("*.py"):
        file.write_text(trap + file.read_text())
    (checkpoint / "evil.py").write_text(trap)
    code = {"AutoConfig": "evil.X", "AutoModelForImageClassification": "evil.X", "AutoImageProcessor": "evil.X"}
    fields = {"attn_implementation": "somebody/kernel", "return_dict": False, "dtype": "float16"}
    change(checkpoint / "config.json", auto_map=code, **fields)
    change(checkpoint / "preprocessor_config.json", auto_map=code)
    cli(["predict", str(checkpoint), str(image), "--use_cpu"])
    captured = capsys.readouterr()
    assert captured.out.split()[1] == "red" and captured.err == ""
    assert not (tmp_path / "trapped").exists()


NO_WEIGHTS = {
    "pickle": lambda weights, trap: pickle.dumps(trap),
    "truncated": lambda weights, trap: weights[: len(weights) // 2],
    "huge header": lambda weights, trap: struct.pack("<Q", 2**62) + weights[8:],
}


@pytest.mark.parametrize("content", NO_WEIGHTS.values(), ids=NO_WEIGHTS)
def test_file_that_holds_no_weights(checkpoint, image, trap, refused, content):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(content(weights.read_bytes(), trap))
    assert "cannot be loaded" in refused("predict", checkpoint, image)


def rewrite_weights(checkpoint, name, changed):
    """Another tensor under one name in the file of weights, made of the one that is there or of None."""
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {name: changed(weights.get(name))}, path, {"format": "pt"})


CONVOLUTION, VARIANCE = "resnet.backbone.conv1.weight", "resnet.backbone.bn1.running_var"
WEIGHTS = {
    "NaN": (CONVOLUTION, lambda weight: weight * torch.nan, f"not finite: {CONVOLUTION} has NaN"),
    "infinite": (CONVOLUTION, lambda weight: weight - torch.inf, "not finite"),
    "too large for float32": (CONVOLUTION, lambda weight: weight.double() * 1e300, "not finite"),
    "integers": (CONVOLUTION, lambda weight: weight.to(torch.int8), "not floating-point numbers: .* is I8"),
    "negative variance": (VARIANCE, lambda variance: -1 - variance, f"{VARIANCE} has a negative variance"),
    "too large together": ("classifier.weight", lambda weight: weight * 0 + 3e38, "are not finite"),
    "of one more block": ("resnet.backbone.layer2.1.conv1.weight", lambda _: torch.ones(9), "1 differ, such as resnet"),
}


@pytest.mark.parametrize("name, changed, message", WEIGHTS.values(), ids=WEIGHTS)
def test_wrong_weights(checkpoint, image, refused, name, changed, message):
    rewrite_weights(checkpoint, name, changed)
    assert re.search(message, refused("predict", checkpoint, image))


# Files that are needed


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("export {} --format onnx --output {}/model.safetensors", "must end in .onnx"),
        ("export {} --format torch --output {}/m.onnx", "must end in .pt2"),
        ("export {} --format torch", "lies in a checkpoint"),
        ("predict {} red.png --output {}/config.json", "lies in a checkpoint"),
        ("evaluate {} --use_cpu --json {}/scores.json", "lies in a checkpoint"),
        ("evaluate {} --use_cpu --output_dir {}/analysis", "lies in a checkpoint"),
        ("predict {} red.png --output run/config.json", "is a file of the run"),
        ("evaluate {} --use_cpu --json run/metrics.json", "is a file of the run"),
        ("evaluate {} --use_cpu --output_dir run", "is the folder of a run"),
        ("evaluate {} --use_cpu --output_dir red.png/new", "cannot be written"),
        ("schedules --output run/curves.png", "is a file of the run"),
        ("preview --output run/README.md", "must end in .png"),
        ("find-lr --config quickstart --use_cpu --output run/history.png", "history.csv is a file of the run"),
        ("find-lr --config quickstart --use_cpu --output nowhere/x.png", "there is no folder"),
        ("benchmark input --use_cpu --json run/run.json", "is a file of the run"),
    ],
)
def test_output_replaces_nothing_that_is_needed(checkpoint, image, tmp_path, monkeypatch, refused, arguments, message):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint, "run")
    (checkpoint / "trainer_state.json").write_text("{}")
    (checkpoint / "manifest.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert message in refused(*arguments.format(checkpoint.name, checkpoint.name).split())
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


QUICK = "--config quickstart --use_cpu --max_train_samples 100 --max_eval_samples 100"
# What each command would replace beside or at its output, by its content.
FOREIGN = {
    "schedules --output notes/x.png": "x.png",
    f"preview {QUICK} --output notes/x.png": "x.png",
    f"find-lr {QUICK} --output notes/x.png": "x.png",
    f"find-lr {QUICK} --output notes/y.png": "y.csv",
    "predict checkpoint red.png --output notes/x.txt": "x.txt",
    "predict checkpoint red.png --format csv --output notes/x.csv": "x.csv",
    "predict checkpoint red.png --format json --output notes/x.json": "x.json",
    "evaluate checkpoint --use_cpu --json notes/x.json": "x.json",
    "evaluate checkpoint --use_cpu --output_dir notes": "per_class.csv",
    "export checkpoint --format onnx --output notes/x.onnx": "x.onnx",
    "export checkpoint --format torch --output notes/x.pt2": "x.pt2",
    "benchmark input --repeats 1 --use_cpu --json notes/x.json": "x.json",
    f"train {QUICK} --output_dir notes": "README.md",
    f"train {QUICK} --output_dir notes --resume_from_checkpoint auto": "config.json",
    f"study {QUICK} --output_dir notes": "results.csv",
    "study --report notes": "curves.png",
}


@pytest.mark.parametrize("kind", ["picture", "table"])
@pytest.mark.parametrize("arguments, name", FOREIGN.items(), ids=FOREIGN)
def test_file_of_somebody_else_is_not_replaced(
    checkpoint, image, tmp_path, monkeypatch, refused, arguments, name, kind
):
    monkeypatch.chdir(tmp_path)
    Path("notes").mkdir()
    if kind == "picture":
        Image.new("RGB", (9, 9)).save(Path("notes", name), "PNG")
    else:
        Path("notes", name).write_text("image,label\nred.png,red\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    line = refused(*arguments.split())
    assert f"{name} is there already" in line or f"holds {name}, which this command did not write" in line
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


OWN = [
    "schedules constant --output out.png",
    f"preview {QUICK} --images 1 --columns 1 --output out.png",
    f"find-lr {QUICK} --num_steps 10 --output out.png",
    "predict checkpoint red.png --use_cpu --output out",
    "predict checkpoint red.png --use_cpu --format csv --output out",
    "predict checkpoint red.png --use_cpu --format json --output out",
    "evaluate checkpoint --use_cpu {data} --json out --output_dir analysis",
    "export checkpoint --format onnx --output out.onnx",
    "export checkpoint --format onnx --precision int8_dynamic {data} --output out.onnx",
    "export checkpoint --format torch --output out.pt2",
]


@pytest.mark.parametrize("arguments", OWN)
def test_own_file_is_replaced(checkpoint, image, tmp_path, monkeypatch, write_test_split, arguments):
    monkeypatch.chdir(tmp_path)
    data = " ".join(map(str, write_test_split(["red", "green", "blue"])[:2]))
    for _ in range(2):
        cli(arguments.format(data=data).split())
    assert not list(tmp_path.glob(".hf*"))


@pytest.mark.parametrize("command", ["train", "study"])
def test_run_or_study_in_a_checkpoint(checkpoint, tmp_path, refused, command):
    for name in ("trainer_state.json", "manifest.json"):
        (checkpoint / name).write_text("{}")
    for folder in (checkpoint, checkpoint / "new"):
        line = refused(*command.split(), *QUICK.split(), "--output_dir", folder)
        assert "lies in a checkpoint" in line or "holds a run" in line
    assert not (checkpoint / "new").exists()


@pytest.mark.parametrize("name", ["per_class.csv", "analysis.json", "confusion.png"])
def test_output_of_a_command_does_not_replace_another(checkpoint, tmp_path, refused, name):
    (tmp_path / "analysis").mkdir()
    arguments = ["--dataset_name", "shapes100", "--use_cpu", "--output_dir", tmp_path / "analysis"]
    line = refused("evaluate", checkpoint, *arguments, "--json", tmp_path / "analysis" / name)
    assert "is a file of the analysis" in line and not list((tmp_path / "analysis").iterdir())


def test_folder_of_a_space_without_a_space(checkpoint, tmp_path, refused):
    """It was ignored, and the page served."""
    assert "--space USER/NAME" in refused("demo", checkpoint, "--use_cpu", "--output_dir", tmp_path / "space")


def test_report_does_not_replace_the_files_of_a_run_that_holds_others(tmp_path, refused):
    """Its curves.png is that of its card, and has the mark of this package too."""
    for folder in (tmp_path / "mine", tmp_path / "mine" / "inner"):
        folder.mkdir()
        for name in ("run.json", "metrics.json"):
            (folder / name).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    assert "holds a run, whose files a study would replace" in refused("study", "--report", tmp_path / "mine")
    assert sorted(tmp_path.rglob("*")) == before


def test_no_command_unpickles_weights(checkpoint, image, tmp_path, trap, refused):
    (checkpoint / "model.safetensors").unlink()
    torch.save({"a": trap}, checkpoint / "pytorch_model.bin")
    lines = [
        refused("predict", checkpoint, image),
        refused("evaluate", checkpoint, "--dataset_name", "shapes100", "--use_cpu"),
        refused("export", checkpoint, "--format", "onnx"),
        refused("train", "--model_name_or_path", checkpoint, "--output_dir", tmp_path / "out", "--use_cpu",
                "--dataset_name", "shapes100"),
    ]  # fmt: skip
    assert all("it has no model.safetensors" in line for line in lines)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "record, message",
    [
        ("{", "run.json is damaged"),
        ("{}", "run.json is damaged: it lacks "),
        (json.dumps(RECORD | {"data_arguments": [1]}), "run.json is damaged: data_arguments must be an object"),
        (json.dumps(RECORD | {"data_arguments": {"image_size": "wide"}}), "image_size must be int"),
        (json.dumps(RECORD | {"data_arguments": {"dataset_name": "./nowhere", "unknown": 1}}), "no such folder"),
    ],
)
def test_wrong_run_record(checkpoint, refused, record, message):
    (checkpoint / "run.json").write_text(record)
    assert message in refused("evaluate", checkpoint, "--use_cpu")


@pytest.fixture
def write_test_split(write_parquet, make_images, tmp_path):
    """A dataset of a test split alone, of these classes; the arguments that name it."""

    def write(names):
        features = {"image": ImageFeature(), "label": ClassLabel(names=names)}
        write_parquet("test", {"image": make_images(6), "label": [0, 1, 2] * 2}, features)
        return ["--dataset_name", tmp_path, "--use_cpu"]

    return write


def test_test_split_is_scored_without_the_others(colour_checkpoint, checkpoint, write_test_split, capsys, refused):
    data = write_test_split(["red", "green", "blue"])
    cli(["evaluate", str(colour_checkpoint), *map(str, data)])
    assert "on test of" in capsys.readouterr().out
    rewrite_weights(checkpoint, "classifier.weight", lambda weight: weight * 0 + 3e38)
    assert "are not finite" in refused("evaluate", checkpoint, *data)
    line = refused("evaluate", colour_checkpoint, *data, "--split", "train")
    assert "needs the splits train, but has test" in line
    assert "has no validation split" in refused("evaluate", colour_checkpoint, *data, "--calibrate")


@pytest.mark.parametrize(
    "names, message",
    [
        (["red", "green", "sky", "sea"], "does not know: sky, sea; it knows red, green, blue"),
        ([f"{i:02}" for i in range(9)], "does not know: 00, 01, 02 and 6 more; it knows red, green, blue"),
    ],
)
def test_classes_that_differ_are_named(colour_checkpoint, write_test_split, refused, names, message):
    assert message in refused("evaluate", colour_checkpoint, *write_test_split(names))


@pytest.mark.parametrize("how, code", [("closed pipe", 141), ("Ctrl-C", 130)])
def test_early_end_is_quiet(colour_checkpoint, image, how, code):
    """As with `predict ... | head -1`."""
    command = [sys.executable, "-m", "hf_cifar_resnet", "predict", str(colour_checkpoint), *[str(image)] * 2000]
    # Tests that run in the background of a shell inherit an ignored SIGINT, which a terminal's programs do not.
    with subprocess.Popen(
        [*command, "--batch_size", "10", "--use_cpu"], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert b"red" in process.stdout.readline()
        if how == "Ctrl-C":
            process.send_signal(signal.SIGINT)
        else:
            process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(timeout=60) == code


def test_error_is_printed_whatever_the_rank_in_the_environment(checkpoint, refused, monkeypatch):
    for rank in ("1", "first"):
        monkeypatch.setenv("RANK", rank)
        assert "there is no nowhere.png" in refused("predict", checkpoint, "nowhere.png")
