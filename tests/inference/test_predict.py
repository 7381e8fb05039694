"""`predict`: files in, labels out."""

import contextlib
import csv
import io
import json
import os
import resource
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.inference.predict import find_images

from .conftest import COLOURS


def predicted(capsys, *arguments):
    """What `predict --format json` writes: file name to its predictions."""
    cli(["predict", *map(str, arguments), "--use_cpu", "--format", "json"])
    return {entry["image"]: entry["predictions"] for entry in json.loads(capsys.readouterr().out)}


def test_any_size_and_mode(colour_checkpoint, write_image, capsys):
    files = {
        write_image("red.png", "red"): "red",
        write_image("wide.jpg", "green", (200, 33)): "green",
        write_image("palette.gif", "blue", (7, 90), "P"): "blue",
        write_image("transparent.png", "blue", (64, 64), "RGBA"): "blue",
        write_image("print.tiff", "red", (40, 40), "CMYK"): "red",
    }
    answers = predicted(capsys, colour_checkpoint, *files)
    assert {path: answer[0]["label"] for path, answer in answers.items()} == files
    assert all(sum(entry["score"] for entry in answer) == pytest.approx(1) for answer in answers.values())


def test_agrees_with_the_pipeline_of_transformers(colour_checkpoint, write_image, capsys):
    from transformers import pipeline

    files = [write_image(f"{colour}.png", colour) for colour in ("red", "green", "blue")]
    classify = pipeline("image-classification", model=str(colour_checkpoint))
    answers = predicted(capsys, colour_checkpoint, *files)
    for batch_size in (1, 3):
        for path, theirs in zip(files, classify(files, batch_size=batch_size), strict=True):
            assert [entry["label"] for entry in answers[path]] == [entry["label"] for entry in theirs]
            assert answers[path][0]["score"] == pytest.approx(theirs[0]["score"], abs=1e-5)


def test_the_pipeline_differs_where_the_card_reports_it(colour_checkpoint, write_image, tmp_path, capsys):
    """Invisible red is red for the pipeline, and white for us; a dark image of 16 bits is too bright for us."""
    from transformers import pipeline

    clear, deep = str(tmp_path / "clear.png"), str(tmp_path / "deep.png")
    Image.new("RGBA", (32, 32), (*COLOURS["red"], 0)).save(clear)
    Image.fromarray(np.full((32, 32), 30_000, dtype=np.uint16)).save(deep)
    Image.new("RGB", (32, 32), "white").save(tmp_path / "white.png")
    red, white = write_image("red.png", "red"), str(tmp_path / "white.png")
    answers = predicted(capsys, colour_checkpoint, clear, white)
    assert answers[clear] == answers[white]
    classify = pipeline("image-classification", model=str(colour_checkpoint))
    assert classify(clear) == classify(red) and classify(deep)
    with pytest.raises(SystemExit):
        predicted(capsys, colour_checkpoint, deep)
    assert "deep.png: its pixels are not all grey levels" in capsys.readouterr().err


def test_folders_and_globs(write_image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("a/2.png", "a/1.png", "a/deep/3.JPG", "b/4.png"):
        write_image(path, "red")
    assert find_images(["a"]) == (["a/1.png", "a/2.png", "a/deep/3.JPG"], {})
    assert find_images(["*/[24].png", "a/1.png"]) == (["a/2.png", "b/4.png", "a/1.png"], {})
    assert find_images(["**/3.*"]) == (["a/deep/3.JPG"], {})
    write_image("__MACOSX/5.png", "red")
    assert find_images(["*"]) == (
        ["a/1.png", "a/2.png", "a/deep/3.JPG", "b/4.png"],
        {},
    )  # no shell of Windows expands it


def test_hidden_files_are_no_images_and_links_are_followed(write_image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hidden = "a/._1.png", "a/.ipynb_checkpoints/1-checkpoint.png", "a/__MACOSX/1.png", "a/__pycache__/1.png", ".b/2.png"
    for path in ("a/1.png", *hidden, "elsewhere/3.png"):
        write_image(path, "red")
    (tmp_path / "a" / "Thumbs.db").touch()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "a")
    assert find_images(["a"]) == (["a/1.png", "a/link/3.png"], {})
    # What is named itself is not hidden.
    assert find_images([".b", "a/._1.png"]) == ([".b/2.png", "a/._1.png"], {})


def test_other_files_in_a_folder_are_counted(colour_checkpoint, write_image, tmp_path, capsys, refused):
    write_image("images/1.png", "red")
    for name in ("2.heic", "3.HEIC", "noending", "print.pdf", ".DS_Store"):  # PIL writes PDF, but does not read it
        (tmp_path / "images" / name).write_text("no image")
    cli(["predict", str(colour_checkpoint), str(tmp_path / "images"), "--use_cpu"])
    captured = capsys.readouterr()
    assert captured.out.split()[1] == "red"
    [line] = captured.err.splitlines()
    assert line.startswith("left out: 4 other files (2 .heic, 1 without an ending, 1 .pdf); ")
    (tmp_path / "images" / "1.png").unlink()
    assert "holds no images, but 4 other files (2 .heic" in refused("predict", colour_checkpoint, tmp_path / "images")


@pytest.mark.parametrize("batch_size", [2, 100])
def test_unreadable_files_are_listed(colour_checkpoint, write_image, tmp_path, capsys, batch_size):
    for number in range(5):
        write_image(f"images/{number}.png", "green")
    (tmp_path / "images" / "1.png").write_bytes(b"this is no image")
    content = (tmp_path / "images" / "3.png").read_bytes()
    (tmp_path / "images" / "3.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(SystemExit) as stopped:
        cli(["predict", str(colour_checkpoint), str(tmp_path / "images"), "--batch_size", str(batch_size)])
    assert stopped.value.code == 1
    captured = capsys.readouterr()
    first, *others = captured.err.splitlines()
    assert first == "2 of 5 files could not be read:"
    assert others[0].endswith("images/1.png: not an image") and "images/3.png: " in others[1]
    assert [line.split()[:2] for line in captured.out.splitlines()] == [
        [str(tmp_path / "images" / f"{number}.png"), "green"] for number in (0, 2, 4)
    ]


def test_csv_has_a_row_for_each_label(colour_checkpoint, write_image, tmp_path, capsys):
    path = write_image('odd, "name".png', "blue")
    cli(["predict", str(colour_checkpoint), path, "--format", "csv", "--top_k", "2", "--output", f"{tmp_path}/out.csv"])
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [(row["image"], row["rank"]) for row in rows] == [(path, "1"), (path, "2")]
    assert rows[0]["label"] == "blue" and float(rows[0]["probability"]) > float(rows[1]["probability"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "name, beginning", [("o.json", '[\n{"image": "'), ("o.CSV", "image,rank,label,probability\n"), ("o.txt", "/")]
)
def test_format_is_that_of_the_output(colour_checkpoint, write_image, tmp_path, name, beginning):
    cli(["predict", str(colour_checkpoint), write_image("blue.png", "blue"), "--output", str(tmp_path / name)])
    assert (tmp_path / name).read_text().startswith(beginning)


def test_temperature_of_the_checkpoint_softens_what_is_shown(colour_checkpoint, write_image, tmp_path, capsys):
    warm = shutil.copytree(colour_checkpoint, tmp_path / "warm")
    config = json.loads((warm / "config.json").read_text())
    (warm / "config.json").write_text(json.dumps(config | {"calibration_temperature": 10.0}))
    path = write_image("red.png", "red")
    [plain], [softened] = predicted(capsys, colour_checkpoint, path).values(), predicted(capsys, warm, path).values()
    assert plain[0]["label"] == softened[0]["label"] == "red"
    assert 1 / 3 < softened[0]["score"] < plain[0]["score"] - 0.1


def test_memory_does_not_grow_with_the_number_of_files(colour_checkpoint, write_image, tmp_path):
    """400 images of 0.75 MB decoded, in batches of ten, cost less than 100 of them at once."""
    path = write_image("large.png", "red", (500, 500))
    batches = [str(colour_checkpoint), *[path] * 10, "--batch_size", "10", "--output", str(tmp_path / "out")]
    cli(["predict", *batches])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cli(["predict", str(colour_checkpoint), *[path] * 400, *batches[11:]])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 75 * 1024
    assert len((tmp_path / "out").read_text().splitlines()) == 400


def test_what_is_typed_wrong(colour_checkpoint, write_image, tmp_path, refused):
    image = write_image("red.png", "red")
    assert "there is no nowhere.png" in refused("predict", colour_checkpoint, image, "nowhere.png")
    assert "holds no checkpoint" in refused("predict", tmp_path, image)
    assert "is neither a folder nor user/repo" in refused("predict", "./nowhere", image)
    assert "argument --top_k: must be at least 1" in refused("predict", colour_checkpoint, image, "--top_k", "0")
    assert "cannot be written" in refused("predict", colour_checkpoint, image, "--output", tmp_path / "no" / "out")
    assert "one of the inputs" in refused("predict", colour_checkpoint, image, "--output", image)
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused("predict", colour_checkpoint, tmp_path / "empty")


def test_output_takes_its_place_when_it_is_complete(colour_checkpoint, write_image, tmp_path, refused, limit_file_size):
    output = tmp_path / "labels.txt"
    images = write_image("red.png", "red"), write_image("blue.png", "blue")
    cli(["predict", str(colour_checkpoint), images[1], "--use_cpu", "--output", str(output)])
    before = output.read_text()
    limit_file_size(10)
    line = refused("predict", colour_checkpoint, images[0], "--output", output)
    limit_file_size()
    assert line == f"error: {output} cannot be written: File too large"
    assert output.read_text() == before
    assert sorted(os.listdir(tmp_path)) == ["blue.png", "labels.txt", "red.png"]
    cli(["predict", str(colour_checkpoint), images[0], "--use_cpu", "--output", str(output)])
    assert output.read_text().split()[1] == "red"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("redirected", [True, False])
def test_output_on_a_full_disk(colour_checkpoint, write_image, capsys, redirected):
    arguments = ["predict", str(colour_checkpoint), write_image("red.png", "red"), "--use_cpu"]
    with open("/dev/full", "w") as full, pytest.raises(SystemExit) as stopped:
        if redirected:
            with contextlib.redirect_stdout(full):
                cli(arguments)
        else:
            cli([*arguments, "--output", full.name])
    [line] = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and line.endswith("cannot be written: No space left on device")


@pytest.mark.parametrize("place", ["images/pipe.png", "images", "images/*.png"])
def test_pipe_is_not_waited_for(colour_checkpoint, write_image, tmp_path, capsys, place):
    write_image("images/red.png", "red")
    os.mkfifo(tmp_path / "images" / "pipe.png")
    with pytest.raises(SystemExit) as stopped:
        cli(["predict", str(colour_checkpoint), str(tmp_path / place), "--use_cpu"])
    captured = capsys.readouterr()
    assert stopped.value.code == 1 and captured.err.endswith("images/pipe.png: not a regular file\n")
    assert len(captured.out.splitlines()) == (place != "images/pipe.png")


def test_hub_id_that_cannot_be_had(write_image, refused, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = refused("predict", "someone/something", write_image("red.png", "red"))
    assert "no folder someone/something, and from the Hub: " in line


def test_checkpoint_without_its_classifier_is_refused(colour_checkpoint, write_image, tmp_path, refused):
    """transformers would make up the missing weights."""
    part = shutil.copytree(colour_checkpoint, tmp_path / "part")
    weights = load_file(part / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "classifier" not in n}, part / "model.safetensors", {"format": "pt"})
    assert "2 differ, such as classifier.bias" in refused("predict", part, write_image("red.png", "red"))
