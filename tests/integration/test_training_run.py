import hashlib
import shutil
import zipfile

import pytest

from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.commands.train import main
from hf_cifar_resnet.documents import read_json
from hf_cifar_resnet.runs.history import History
from hf_cifar_resnet.study.report import write_report

from .conftest import PUSHED, write_noise

WRITTEN = PUSHED | {"curves.svg", "history.csv", "events.jsonl"}


def contents(folder):
    """The hash and the time of every file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


def shown(scores):
    parts = [f"loss {scores['loss']:.4f}"]
    names = {"top1": "top-1", "top5": "top-5", "superclass": "superclass"}
    return ", ".join(parts + [f"{text} {scores[name]:.2%}" for name, text in names.items()])


# What is printed and written


def test_lines(finished):
    """Eight at the start, one an evaluation, and four at the end."""
    block = dict(line.split(maxsplit=1) for line in finished.lines[:8])
    assert list(block) == ["Dataset", "Model", "Training", "Schedule", "Methods", "Precision", "Device", "Output"]
    assert block["Dataset"].startswith("shapes100: 400 train, 200 validation, 200 test; 100 classes")
    assert block["Training"].startswith("6 steps, global batch 32 (processes x per device x accumulation: 1 x 32 x 1)")
    assert block["Output"] == str(finished.folder)
    metrics = read_json(finished.folder / "metrics.json")
    evaluation, best, validation, test, saved = finished.lines[8:]
    assert best.startswith("best  epoch 0.4615, top-1 ")
    assert evaluation.startswith("epoch ") and "superclass " in evaluation
    assert validation == f"Validation {shown(metrics['validation'])}"
    assert test == f"Test       {shown(metrics['test'])}"
    assert saved.startswith(f"Saved      {finished.folder}/ (epoch ")


def test_schedule_that_does_not_fit_is_a_line_at_the_start(tmp_path, capsys):
    program = "train --config quickstart --use_cpu --max_train_samples 200 --max_eval_samples 100 --num_train_epochs 1"
    cli([*program.split(), "--warmup_steps", "500", "--output_dir", str(tmp_path / "out")])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning")]
    assert "cosine_with_warmup does not fit a run of 7 steps: its warmup takes 500, the LR reaches at most 1.2%" in line


def test_folder_holds_what_is_promised_and_no_pickle_outside_checkpoints(finished):
    assert {path.name for path in finished.folder.iterdir()} == WRITTEN | {"checkpoint-6", ".lock"}
    for name in WRITTEN:
        path = finished.folder / name
        assert not path.read_bytes().startswith(b"\x80") and not zipfile.is_zipfile(path), name
    assert not list(finished.folder.rglob("training_args.bin"))


def test_records_agree(finished):
    metrics = read_json(finished.folder / "metrics.json")
    rows = History.read(finished.folder / "history.csv").to_dicts()
    assert [row["step"] for row in rows] == [6]
    assert {name: rows[0][f"eval_{name}"] for name in metrics["validation"]} == metrics["validation"]
    card = (finished.folder / "README.md").read_text()
    for split in ("validation", "test"):
        assert f"| {split} | 200 | {metrics[split]['loss']:.4f} | {metrics[split]['top1']:.2%} |" in card
    assert (finished.folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_few_classes_have_no_top_5(write_image_folder, make_images, tmp_path, capsys, refused):
    images = iter(make_images(32))
    write_image_folder({"train": {"cat": 8, "dog": 8}, "test": {"cat": 8, "dog": 8}}, lambda: next(images))
    data = ["--dataset_name", str(tmp_path), "--config", "quickstart", "--use_cpu", "--max_steps", "1"]
    study = tmp_path / "study"
    main([*data, "--output_dir", str(study / "cosine_with_warmup-seed42")])
    write_report(study)
    printed = capsys.readouterr().out
    assert "top-1" in printed and "| eval loss" in printed and "top-5" not in printed
    for path in study.rglob("*"):
        if path.suffix in (".json", ".csv", ".md") and not path.name.startswith("training_args"):
            text = path.read_text().lower()
            assert "top5" not in text and "top-5" not in text, path
    assert "test top-1" in (study / "results.md").read_text()
    line = refused("train", *data, "--metric_for_best_model", "top5", "--output_dir", tmp_path / "refused")
    assert "must be one of loss, top1, got top5" in line


# The same again


@pytest.fixture(scope="module")
def without_output_dir(quick, tmp_path_factory):
    """Two runs in the same working directory, given no `--output_dir`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("default"))
        main(quick)
        main(quick)
        yield tmp_path_factory.getbasetemp() / "default0" / "runs"


def test_default_folder_names_the_run(without_output_dir, finished):
    schedule = read_json(finished.folder / "run.json")["arguments"]["lr_scheduler_type"]
    name = f"shapes100-resnet-basic-1-1-1-w16-32-64-{schedule}-seed42"
    assert {path.name for path in without_output_dir.iterdir()} == {name, f"{name}-2"}


def test_same_arguments_give_the_same_model(without_output_dir, finished, untimed):
    """In the same process as in another, in other folders."""
    metrics = untimed(read_json(finished.folder / "metrics.json"))
    for folder in without_output_dir.iterdir():
        assert untimed(read_json(folder / "metrics.json")) == metrics
        assert (folder / "model.safetensors").read_bytes() == (finished.folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kept", ["all", "only the checkpoint"])
def test_finished_run_is_not_overwritten(finished, quick, tmp_path, refused, kept):
    folder = finished.folder
    if kept != "all":
        folder = tmp_path / "stopped"
        shutil.copytree(finished.folder / "checkpoint-6", folder / "checkpoint-6")
    before = contents(folder)
    assert "--resume_from_checkpoint auto" in refused("train", *quick, "--output_dir", folder)
    assert contents(folder) == before


# Scoring afterwards


@pytest.mark.parametrize(
    "place, split, batch_size", [("", "test", 7), ("", "validation", 64), ("checkpoint-6", "test", 200)]
)
def test_evaluate_gives_the_figures_of_the_run(finished, tmp_path, capsys, place, split, batch_size):
    options = ["--split", split, "--batch_size", str(batch_size), "--json", str(tmp_path / "scores.json")]
    before = contents(finished.folder)
    cli(["evaluate", str(finished.folder / place), "--use_cpu", *options])
    expected = read_json(finished.folder / "metrics.json")[split]
    scores = read_json(tmp_path / "scores.json")
    assert scores == expected | {"loss": pytest.approx(expected["loss"], abs=1e-6)}
    assert f"top1       {expected['top1']:.2%}" in capsys.readouterr().out.splitlines()
    assert contents(finished.folder) == before


# Other ways to run


def test_selection_on_test_is_reported_everywhere(quick, finished, tmp_path, capsys):
    main([*quick, "--eval_split", "test", "--validation_fraction", "0", "--output_dir", str(tmp_path)])
    lines, metrics = capsys.readouterr().out.splitlines(), read_json(tmp_path / "metrics.json")
    assert lines[0].startswith("Dataset    shapes100: 400 train, 200 test;") and lines[0].endswith("selected on test")
    assert lines[-2] == f"Test       {shown(metrics['test'])} (selected on test)"
    assert "**Selected on test:**" in (tmp_path / "README.md").read_text()
    assert metrics["selected_on"] == "test" and metrics["validation"] is None
    [row] = History.read(tmp_path / "history.csv").to_dicts()
    assert {name: row[f"eval_{name}"] for name in metrics["test"]} == metrics["test"]
    honest = "\n".join([*finished.lines, (finished.folder / "README.md").read_text()])
    assert "selected on test" not in honest.lower()


def test_changed_arguments_are_reported_on_resume(quick, finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    resume = ["--output_dir", str(folder), "--resume_from_checkpoint", "auto", "--max_steps", "8"]
    main([*quick, *resume, "--weight_decay", "0.5"])
    expected = {"max_steps": [6, 8], "weight_decay": [0.0001, 0.5]}
    assert read_json(folder / "run.json")["changed_arguments"] == expected
    message = (
        f"{folder}/checkpoint-6, with changed arguments from step 6 on: max_steps 6 -> 8, weight_decay 0.0001 -> 0.5"
    )
    assert f"Resumed    {message}\n" in capsys.readouterr().out
    assert "max_steps 6, then 8; weight_decay 0.0001, then 0.5." in (folder / "README.md").read_text()
    # What is no record does not matter.
    (folder / "run.json").write_text('{"arguments": [1], "changed_arguments": {"seed": 2}, "data_arg')
    main([*quick, *resume])
    assert f"Resumed    {folder}/checkpoint-8\n" in capsys.readouterr().out


SMALL = (
    "--use_cpu --block basic --stage_depths 1 --stage_widths 16 --global_batch_size 8 --validation_fraction 0 "
    "--eval_split test --augmentation none --learning_rate 0.01"
).split()


def write_dataset(folder, names, seed=0):
    """Eight training and eight test images of noise; returns the arguments that name them."""
    write_noise(folder, {"label": names}, {"train": 8, "test": 8}, size=8, seed=seed)
    return ["--dataset_name", str(folder), "--image_size", "8"]


@pytest.fixture(scope="module")
def run_on_pets(tmp_path_factory):
    """A folder with the dataset `pets`, and a run of four steps on it."""
    folder = tmp_path_factory.mktemp("resumed")
    main([*SMALL, *write_dataset(folder / "pets", ["cat", "dog"]), "--max_steps", "4", "--output_dir", f"{folder}/run"])
    return folder


@pytest.fixture
def refused_resume(run_on_pets, tmp_path, capsys):
    """The line with which a copy of the run on pets is not resumed, and left as it was: `evaluate` reads it."""

    def run(*arguments):
        folder = shutil.copytree(run_on_pets / "run", tmp_path / "run")
        before = contents(folder)
        resume = ["--max_steps", "8", "--output_dir", str(folder), "--resume_from_checkpoint", "auto"]
        with pytest.raises(SystemExit) as stopped:
            cli(["train", *SMALL, *resume, *arguments])
        [line] = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2 and "checkpoint-4 cannot be resumed: " in line
        assert contents(folder) == before
        return line

    return run


@pytest.mark.parametrize(
    "dataset, names, seed, options, reason",
    [
        ("cars", ["cat", "dog"], 0, "--max_eval_samples 4", "its run was on the dataset pets, and this one is on cars"),
        ("pets", ["cat", "dog"], 1, "", "its run was evaluated on other images: the test split of pets changed"),
        ("pets", ["dog", "cat"], 0, "", "differ: class 0 is cat in the first and dog in the second, class 1 is dog"),
    ],
    ids=["another name", "other images", "another order"],
)
def test_checkpoint_of_another_dataset_is_refused(refused_resume, tmp_path, dataset, names, seed, options, reason):
    assert reason in refused_resume(*write_dataset(tmp_path / dataset, names, seed), *options.split())


def test_dataset_may_move_and_change_its_name(run_on_pets, tmp_path):
    shutil.copytree(run_on_pets / "run", tmp_path / "run")
    named = write_dataset(tmp_path / "moved" / "animals", ["cat", "dog"])
    main([*SMALL, *named, "--max_steps", "5", "--output_dir", f"{tmp_path}/run", "--resume_from_checkpoint", "auto"])
    assert read_json(tmp_path / "run" / "metrics.json")["steps"] == 5


def test_classes_that_left_the_dataset_may_have_been_trained_on(tmp_path, refused, capsys):
    """Which images are held out depends on the classes; the test images are known."""
    pets, run = tmp_path / "pets", tmp_path / "run"
    write_noise(pets, {"label": ["cat", "cow", "dog"]}, {"train": 24, "test": 9}, size=8)
    validation = "--validation_fraction 0.25 --eval_split validation --max_steps 2".split()
    main([*SMALL, "--dataset_name", str(pets), "--image_size", "8", *validation, "--output_dir", str(run)])
    write_noise(pets, {"label": ["cat", "dog"]}, {"train": 24, "test": 8}, size=8)
    line = refused("evaluate", run, "--split", "validation", "--use_cpu")
    assert "may have been trained on some of these validation images" in line and "cow only in the first" in line
    cli(["evaluate", str(run), "--split", "test", "--use_cpu"])
    assert "only 2 of the model's 3 classes occur in these images (cat, dog)" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--stage_widths", "24"], ["--optim", "sgd", "--optim_args", "momentum=0.9"]])
def test_refused_resume_changes_nothing(refused_resume, run_on_pets, options):
    refused_resume("--dataset_name", str(run_on_pets / "pets"), "--image_size", "8", *options)
