"""What a former version wrote still loads, reports and resumes (see fixtures/README.md)."""

import csv
import json
import tarfile
from pathlib import Path

import pytest

from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.documents import read_json

ARGUMENTS = (
    "--dataset_name shapes100 --max_train_samples 120 --max_eval_samples 100 --block basic --stage_depths 1 1 "
    "--stage_widths 4 8 --global_batch_size 60 --num_train_epochs 2 --learning_rate 0.01 --use_cpu"
).split()


@pytest.fixture(params=["efac3f3"])
def former(request, tmp_path):
    """The folder of runs that a former version wrote."""
    with tarfile.open(Path(__file__).parent / "fixtures" / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.parametrize("name", ["finished", "finished/checkpoint-4", "pushed"])
def test_model_is_loaded_and_scores_as_it_did(former, name):
    cli(["evaluate", str(former / name), "--use_cpu", "--json", str(former / "scores.json")])
    scores, before = read_json(former / "scores.json"), read_json(former / "finished" / "metrics.json")["test"]
    assert {score: scores[score] for score in before} == pytest.approx(before, abs=1e-5)


def test_killed_run_is_resumed_to_the_same_end(former):
    cli(["train", *ARGUMENTS, "--seed", "7", "--output_dir", str(former / "killed"),
         "--resume_from_checkpoint", "auto"])  # fmt: skip
    metrics = [read_json(former / name / "metrics.json") for name in ("killed", "finished")]
    for split in ("validation", "test"):
        resumed, uninterrupted = (each[split] for each in metrics)
        assert resumed == pytest.approx(uninterrupted, abs=1e-3)


def test_finished_run_is_prolonged(former):
    arguments = [*ARGUMENTS, "--seed", "7", "--num_train_epochs", "3"]
    cli(["train", *arguments, "--output_dir", str(former / "finished"), "--resume_from_checkpoint", "auto"])
    record = read_json(former / "finished" / "run.json")
    assert record["changed_arguments"] == {"num_train_epochs": [2, 3]}
    with open(former / "finished" / "history.csv", newline="") as file:
        assert [float(row["epoch"]) for row in csv.DictReader(file)] == [1, 2, 3]


def test_study_is_reported(former, capsys):
    study = former / "study"
    before = read_results(study)
    (study / "results.csv").unlink()
    cli(["study", "--report", str(study)])
    after = read_results(study)
    assert len(before) == len(after) == 4
    for old, new in zip(before, after, strict=True):
        assert new["variant"] == old["variant"] and new["seed"] == old["seed"]
        for column in ("validation_top1", "test_top1", "test_loss", "train_accuracy", "best_epoch"):
            assert float(new[column]) == pytest.approx(float(old[column]), rel=1e-6)
    assert "| constant | 2 |" in (study / "results.md").read_text()


@pytest.mark.parametrize("more", ["", "--augmentation seed", "--augmentation crop_flip_jitter"])
def test_study_that_is_started_again_finds_its_runs(former, capsys, more):
    """Also where the policy has its former name, or the present one."""
    study = former / "study"
    before = {path: path.stat().st_mtime_ns for path in study.glob("*/metrics.json")}
    arguments = [*ARGUMENTS, *more.split(), "--output_dir", str(study)]
    cli(["study", "--schedules", "constant", "cosine", "--seeds", "1", "2", *arguments])
    assert "4 of 4 runs are finished already" in capsys.readouterr().out
    assert len(before) == 4 and all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert len(json.loads((study / "study.json").read_text())["runs"]) == 4


def read_results(study):
    with open(study / "results.csv", newline="") as file:
        return list(csv.DictReader(file))
