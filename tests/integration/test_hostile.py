"""Whole commands on input that is odd, broken, or meant to do harm."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from hf_cifar_resnet.cli import main as cli

from .conftest import write_noise

ODD = "dä ta 'x' \"y\" $z 图 #"
WORSE = f"{ODD} [1]*\n"
LABELS = ["<script>alert(1)</script>", "a|b", "[link](http://x)", "$\\frac{", "`code` 图"]


@pytest.fixture
def dataset(tmp_path):
    """A folder with an odd name, of classes with hostile names."""
    return write_noise(tmp_path / ODD, {"label": LABELS}, {"train": 40, "test": 20})


def test_odd_names_from_training_to_prediction(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / f"{WORSE}.yaml"
    recipe.write_text("block: basic\nstage_depths: [1]\nstage_widths: [16]\nglobal_batch_size: 8\nuse_cpu: true\n")
    run = tmp_path / f"runs {WORSE}"
    cli(["train", "--config", str(recipe), "--dataset_name", str(dataset), "--output_dir", str(run), "--max_steps", "2",
         "--run_name", WORSE])  # fmt: skip
    card = (run / "README.md").read_text()
    assert "<script>" not in card and "| a|b" not in card and "[link](" not in card
    assert "&lt;script&gt;" in card and (run / "metrics.json").is_file()

    cli(["evaluate", str(run), "--use_cpu", "--output_dir", str(run / "analysis")])
    assert (run / "analysis" / "confusion.png").is_file()
    image = tmp_path / f"{WORSE}.png"
    Image.new("RGB", (9, 9)).save(image)
    capsys.readouterr()
    cli(["predict", str(run), str(image), "--use_cpu", "--format", "json"])
    [answer] = json.loads(capsys.readouterr().out)
    assert {entry["label"] for entry in answer["predictions"]} == set(LABELS)
    cli(["train", "--config", str(recipe), "--dataset_name", str(dataset), "--output_dir", str(run), "--max_steps", "3",
         "--resume_from_checkpoint", "true"])  # fmt: skip
    assert json.loads((run / "metrics.json").read_text())["steps"] == 3


def test_folder_that_datasets_would_take_for_a_pattern(dataset, tmp_path, refused):
    folder = dataset.rename(tmp_path / WORSE)
    line = refused("train", "--dataset_name", folder, "--output_dir", tmp_path / "out", "--use_cpu")
    assert "give a link to it" in line and "[1]*\\n" in line


BOMB = "\n".join(["a0: &a0 [1,1,1,1,1,1,1,1,1]", *(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]" for i in range(1, 30))])


@pytest.mark.parametrize(
    "text, reason",
    [
        (BOMB, "unknown argument a0"),
        ("depth: &a [*a]", "depth takes one value, not a list"),
        ("depth: " + "[" * 20_000, "nested too deeply"),
        ("depth: " + "1" * 2**21, "larger than 1,048,576 bytes"),
        ("depth: !!python/object/apply:os.system ['touch trapped']", "could not determine a constructor"),
        ("depth: 2001-99-99", "not valid YAML"),
        ("\0", "not valid YAML"),
    ],
    ids=["billion laughs", "in itself", "deep", "huge", "object", "no date", "binary"],
)
def test_recipe_that_does_harm(refused, tmp_path, monkeypatch, text, reason):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(text)
    assert reason in refused("train", "--config", "recipe.yaml", "--output_dir", "out")
    assert os.listdir() == ["recipe.yaml"]


@pytest.mark.parametrize(
    "typed, reason",
    [
        ("--deepspeed ds.json", "deepspeed"),
        ("--use_liger_kernel", "for language models"),
        ("--optim adamw_8bit", "bitsandbytes"),
        ("--fsdp full_shard", "fsdp is not supported"),
        ("--torch_compile_backend nosuch", "DynamoBackend"),
        ("--accelerator_config nofile.json", "nofile.json"),
        ('--accelerator_config {"a":1}', "unexpected keyword"),
    ],
)
def test_package_or_file_that_an_argument_needs(refused, tmp_path, typed, reason):
    out = tmp_path / "out"
    arguments = ["--config", "quickstart", "--use_cpu", "--max_train_samples", "200", "--max_eval_samples", "100"]
    assert reason in refused("train", *arguments, "--output_dir", out, *typed.split())
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("run.json", b"{}", "run.json is damaged: it lacks arguments"),
        ("metrics.json", b"{}", "metrics.json is damaged: it lacks train"),
        *(("run.json", text, "run.json is damaged: it") for text in (b"{", b"[1]", b"[" * 100_000)),
        ("training_args.json", b"{", "training_args.json: it is not valid JSON"),
        ("README.md", b"\xff", "README.md is no UTF-8 text"),
        ("model.safetensors", b"\x80\x04K\x01.", "model.safetensors holds no weights"),
    ],
)
def test_push_of_a_folder_with_a_file_that_is_none(finished, tmp_path, refused, name, content, reason):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    (folder / name).write_bytes(content)
    assert re.search(reason, refused("push", folder, "ann/model"))


@pytest.mark.parametrize("flag", ["--tag", "--revision", "--message"])
def test_push_with_an_empty_word(finished, refused, flag):
    assert f"{flag} must not be empty" in refused("push", finished.folder, "ann/model", flag, "")
