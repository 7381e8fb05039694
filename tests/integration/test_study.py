"""A study of two schedules, really run, stopped and resumed."""

import csv
import json
import shutil
import signal
import time
from itertools import permutations
from pathlib import Path

import pytest

from hf_cifar_resnet.checkpoints.resume import find_last_resumable
from hf_cifar_resnet.checkpoints.run_folder import lock_folder
from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.commands.parser import parse_arguments
from hf_cifar_resnet.commands.study import ENTRY
from hf_cifar_resnet.documents import read_json, write_json
from hf_cifar_resnet.study.local import LocalEngine

pytestmark = pytest.mark.slow
SIZES = "--config quickstart --max_train_samples 200 --max_eval_samples 100 --num_train_epochs 2 --use_cpu".split()
SCHEDULES = ["--schedules", "constant", "one_cycle"]
RUNS = ("constant-seed1", "one_cycle-seed1", "constant-seed2", "one_cycle-seed2")


@pytest.fixture(scope="module")
def study(python, tmp_path_factory):
    """The folder of a study of two schedules and two seeds, and what it printed."""
    folder = tmp_path_factory.mktemp("study") / "out"
    program = ["-m", "hf_cifar_resnet", "study", *SCHEDULES, "--seeds", "1", "2", "--output_dir", folder, *SIZES]
    result = python(*program, cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout, program


def test_a_study_writes_tables_and_plots(study):
    folder, output, _ = study
    lines = output.splitlines()
    assert lines[0] == f"4 runs, one at a time, in {folder}; the output of a run goes to train.log in its folder"
    assert [line.split()[1].rstrip(":") for line in lines if line.startswith("[")] == list(RUNS)
    assert lines[-1] == f"Report in {folder}/results.md" and "![" not in output
    assert any(line.startswith("Best on validation: ") for line in lines)
    table = [line.split() for line in lines if line.startswith(("variant", "constant  ", "one_cycle  "))]
    assert [row[0] for row in table] in (["variant", *names] for names in permutations(("constant", "one_cycle")))
    assert all(len(line) < 100 for line in lines[-6:])
    with open(folder / "results.csv", newline="") as file:
        rows = {row["folder"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(RUNS)
    for name in RUNS:
        metrics = read_json(folder / name / "metrics.json")
        assert float(rows[name]["test_top1"]) == metrics["test"]["top1"]
        assert float(rows[name]["validation_top5"]) == metrics["validation"]["top5"]
    text = (folder / "results.md").read_text()
    for part in ("| constant | 2 |", "| one_cycle | 2 |", "Best on validation: ", "Power: paired by seed"):
        assert part in text
    for plot in ("curves", "final"):
        assert (folder / f"{plot}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (folder / f"{plot}.svg").read_bytes()


def ensemble_rows(text):
    """Variant -> the cells of its ensemble's row in results.md, empty ones left out."""
    rows = [line.strip("| ").split("|") for line in text.splitlines() if "ensemble of its" in line]
    return {row[0].split(",")[0]: [cell.strip() for cell in row if cell.strip()] for row in rows}


def test_the_seeds_of_each_schedule_are_scored_as_one(study, tmp_path, capsys):
    folder, output, _ = study
    rows = ensemble_rows((folder / "results.md").read_text())
    assert set(rows) == {"constant", "one_cycle"}
    members = [str(folder / f"constant-seed{seed}") for seed in (1, 2)]
    cli(["evaluate", *members, "--ensemble", "--use_cpu", "--json", str(tmp_path / "scores.json")])
    scores = read_json(tmp_path / "scores.json")
    shown = ["constant, ensemble of its 2 seeds", "1", f"{scores['top1']:.2%}", f"{scores['top5']:.2%}"]
    assert rows["constant"] == shown
    [stored] = [
        each for each in json.loads((folder / "ensembles.json").read_text()) if each["runs"][0].startswith("constant")
    ]
    scores.pop("members")
    assert stored == {"runs": ["constant-seed1", "constant-seed2"], "test": scores}


def test_ensembles_are_of_all_finished_runs_with_weights(study, tmp_path, capsys):
    folder, _, program = study
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    again = [str(copy if part == folder else part) for part in program[2:]]
    # A figure that is there is not computed again; one that is not cannot be without weights.
    stored = (copy / "ensembles.json").read_bytes()
    (copy / "one_cycle-seed2" / "model.safetensors").unlink()
    cli(again)
    assert (copy / "ensembles.json").read_bytes() == stored
    (copy / "ensembles.json").unlink()
    cli(again)
    assert "no ensemble of one_cycle: " in capsys.readouterr().out
    before, after = (ensemble_rows((place / "results.md").read_text()) for place in (folder, copy))
    assert after == {"constant": before["constant"]}
    # Nor is a figure shown beside other runs than it is of.
    (copy / "constant-seed2" / "metrics.json").unlink()
    cli(["study", "--report", str(copy)])
    text = (copy / "results.md").read_text()
    assert "| constant | 1 |" in text and not ensemble_rows(text)


def timeless(folder):
    with open(folder / "results.csv", newline="") as file:
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)]


def test_finished_runs_are_kept_and_interrupted_ones_resume(python, study, tmp_path):
    folder, _, program = study
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    # One run was stopped after its first epoch, one in the middle of its first checkpoint, one never started.
    for path in (path for name in RUNS[1:3] for path in (copy / name).iterdir()):
        if path.name not in ("checkpoint-7", "run.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (copy / RUNS[2] / "checkpoint-7" / "manifest.json").unlink()  # it comes last
    shutil.rmtree(copy / RUNS[3])
    for name in ("results.csv", "results.md"):
        (copy / name).unlink()
    untouched = (copy / RUNS[0] / "metrics.json").stat().st_mtime_ns
    result = python(*[copy if part == folder else part for part in program], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "1 of 4 runs are finished already" in result.stdout
    assert (copy / RUNS[0] / "metrics.json").stat().st_mtime_ns == untouched
    assert "--resume_from_checkpoint" in read_json(copy / RUNS[1] / "run.json")["command"]
    assert timeless(copy) == timeless(folder)


def test_report_rebuilds_everything_from_the_runs_alone(study, tmp_path, capsys):
    folder, _, _ = study
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    written = ("results.csv", "results.md", "curves.png", "curves.svg", "final.png", "final.svg")
    for name in written:
        (copy / name).unlink()
    # A copy of a run is not in study.json, so it is no second result.
    shutil.copytree(copy / RUNS[0], copy / f"{RUNS[0]}-copy")
    cli(["study", "--report", str(copy)])
    for name in written:
        assert (copy / name).read_bytes() == (folder / name).read_bytes()
    assert capsys.readouterr().out.endswith(f"\n\nReport in {copy}/results.md\n")


def test_failed_run_is_reported_and_the_others_run(python, tmp_path):
    # A file is in the way of one run, and another program writes into the folder of the next.
    (tmp_path / "out" / "step-seed1").mkdir(parents=True)
    (tmp_path / "out" / "constant-seed1").write_text("in the way")
    program = ["-m", "hf_cifar_resnet", "study", "--schedules", "constant", "step", "one_cycle", "--seeds", "1"]
    with lock_folder(tmp_path / "out" / "step-seed1"):
        result = python(*program, "--output_dir", tmp_path / "out", *SIZES, "--max_steps", "2", cwd=tmp_path)
    assert result.returncode == 1
    assert "constant-seed1: FAILED: " in result.stdout and "one_cycle-seed1: test top-1" in result.stdout
    assert "step-seed1: FAILED (error: another run is writing into " in result.stdout
    assert "2 of 3 runs failed: constant-seed1, step-seed1" in result.stderr
    assert "Traceback" not in result.stderr


def test_second_study_in_a_folder_is_refused(python, tmp_path):
    """It would write study.json without the runs that the first one adds."""
    (tmp_path / "out").mkdir()
    with lock_folder(tmp_path / "out"):
        program = ["-m", "hf_cifar_resnet", "study", *SCHEDULES, "--output_dir", tmp_path / "out", *SIZES]
        result = python(*program, cwd=tmp_path)
    assert result.returncode == 2 and not (tmp_path / "out" / "study.json").exists()
    assert "another run is writing into " in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_run_of_a_killed_study_saves_and_ends(start, tmp_path, number):
    folder = tmp_path / "out" / "constant-seed1"
    program = "-m hf_cifar_resnet study --schedules constant --seeds 1 --num_train_epochs 4000 --output_dir".split()
    process = start(*program, tmp_path / "out", *SIZES[:-3], "--use_cpu", log=tmp_path / "log")
    deadline = time.monotonic() + 300
    while not list(folder.glob("checkpoint-*/manifest.json")):
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    process.send_signal(number)
    process.wait(300)
    if number == signal.SIGTERM:
        line = (tmp_path / "log").read_text().splitlines()[-1]
        assert line == "Stopped: 0 of 1 runs are finished; the same command continues the study"
    while not (folder / "preempted").exists():  # written when the run has saved and ends
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert find_last_resumable(folder, needs_best=True)


def test_run_whose_log_cannot_be_written_saves_and_ends(tmp_path):
    engine, folder = LocalEngine(1, ENTRY), tmp_path / "run"
    arguments = parse_arguments([*SIZES[:-3], "--use_cpu", "--num_train_epochs", "4000", "--output_dir", str(folder)])
    with pytest.raises(OSError, match="No space left"):
        for _ in engine.train(arguments, Path("/dev/full")):
            pass
    with lock_folder(folder):  # no process works in it any more
        assert not (folder / "metrics.json").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--schedules", "cosin"], "unknown lr_scheduler_type 'cosin'"),
        (["--vary", "weight_decay"], "NAME=A,B"),
        (["--vary", "weight_dekay=1"], "did you mean --weight_decay?"),
        (["--without", "ema_decay=0"], "PART:NAME=VALUE"),
        (["--without", "the ema:ema_decay=0"], "PART:NAME=VALUE"),
        (["--without", "ema:ema_dekay=0"], "unknown argument --ema_dekay=0; did you mean --ema_decay?"),
        (["--seed", "3"], "decided by the study"),
        (["--push_to_hub"], "push_to_hub is decided by the study: push the run that you choose"),
        (["--hub_token", "hf_x"], "hub_token is decided by the study: its runs are not pushed"),
        (["--vary", "seed=1,2"], "seed is decided by the study: use --seeds"),
        (["--vary", "output-dir=x,y"], "output_dir is decided by the study"),
        (["--vary", "lr_scheduler_type=cosine"], "lr_scheduler_type is decided by the study: use --schedules"),
        (["--without", "x:resume_from_checkpoint=auto"], "resume_from_checkpoint is decided by the study"),
        (["--vary", "weight_decay=0.1", "--vary", "weight-decay=0.2"], "--vary weight_decay is given twice"),
        (["--without", "a:dropout=0", "--without", "a:dropout=0.1"], "--without a is given twice"),
        (["--without", "a:dropout=0,dropout=0.1"], "--without a: dropout is given twice"),
        (["--vary", "learning_rate=0.1,1e-1"], "learning_rate=1e-1-seed42 would be the same run as constant-"),
        (["--without", "ema:ema_decay=0"], "constant-without-ema-seed42 would be the same run as constant-seed42"),
        (["--seeds", "42", "42"], "constant-seed42 would be the same run as constant-seed42"),
        (["--schedules", "step", "step"], "step-seed42 would be the same run as step-seed42"),
        (["--vary", "augmentation="], "NAME=A,B"),
        (["--vary", "learning_rate=0.1,"], "NAME=A,B"),
        (["--output_dir", ""], "--output_dir must not be empty"),
        (["--report", ""], "--report must not be empty"),
        (["--report", "nowhere"], "there is no folder nowhere"),
        (["--report", "nowhere", "--seeds", "1"], "--seeds has no effect with --report"),
        (["--report", "nowhere", "--tune", "learning_rate=1,2"], "--tune has no effect with --report"),
        (["--report", "nowhere", "--learning_rate", "3"], "--learning_rate has no effect with --report"),
        (["--report", "nowhere", "--output_dir", "x"], "--output_dir has no effect with --report"),
        (["--seeds", "x"], "invalid int value"),
        (["--tune", "learning_rate"], "--tune learning_rate: write it as NAME=LOW:HIGH"),
        (["--tune", "seed=1,2"], "seed is decided by the study"),
        (["--tune", "learning_rate=0.1,1e-1"], "would be the same run as constant-learning_rate=0.1-tuning-seed0"),
        (["--tune", "learning_rate=0.1,x"], "invalid float value: 'x'"),
        (["--tune", "learning_rate=1,2", "--tuning_seeds", "42"], "--tuning_seeds and seeds must differ"),
        (
            ["--tune", "learning_rate=1,2", "--vary", "learning_rate=1,2"],
            "is varied, ablated or an argument of a variant too",
        ),
        (["--cooldowns", "10"], "--cooldowns needs two numbers of epochs or more, multiples of 5, got 10"),
        (["--cooldowns", "7", "10"], "multiples of 5, got 7 10"),
        *(
            (f"--schedules {warmup} --cooldowns 5 10".split(), "warmup_steps must be a number of steps, such as 500")
            for warmup in (
                "cosine",
                "warmup_stable_decay",
                "cosine --warmup_steps 0.1",
                "cosine --vary warmup_steps=50,0",
                "cosine_with_warmup --warmup_steps 50 --without warmup:warmup_steps=0",
            )
        ),
        (["--cooldowns", "5", "10", "--tune", "learning_rate=1,2"], "--cooldowns takes neither --tune nor"),
        (["--extend_edges", "2"], "--extend_edges is for --tune"),
        (["--tune", "learning_rate=1,2", "--extend_edges", "x"], "write it as a whole number, or NAME=N"),
        (["--tune", "learning_rate=1,2", "--extend_edges", "dropout=1"], "dropout is not among what is tuned"),
        (["--tune", "learning_rate=1:2", "--extend_edges", "1"], "is for grids, and learning_rate is a range"),
        (["--tune", "learning_rate=1,2", "--tune", "learning_rate=1,3"], "--tune learning_rate is given twice"),
        (["--variants", "nowhere.yaml"], "--variants nowhere.yaml: there is no such file"),
        (["--variants", "schedules", "cosin"], "--variants schedules has no cosin: choose from constant"),
        (["--engine", "slurm"], "squeue "),
        (["--jobs", "0"], "--jobs: must be at least 1, got 0"),
        (["--targets", "2", "nan"], "--targets must be above 0 and at most 1, got 2.0 nan"),
    ],
)
def test_bad_arguments_stop_before_anything_is_run(refused, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused("study", "--use_cpu", *arguments) and list(tmp_path.iterdir()) == []


def test_a_study_keeps_out_of_the_folder_of_a_run_and_a_run_out_of_a_study(refused, finished, study):
    for folder, command in ((finished.folder, "study"), (study[0], "train")):
        before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        assert "would replace: choose another" in refused(command, *SIZES, "--output_dir", folder)
        assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_files_of_a_study_that_cannot_be_written_are_kept(study, tmp_path, refused, limit_file_size):
    """Neither study.json nor the report, by a quota as a stand-in for a full disk."""
    folder = shutil.copytree(study[0], tmp_path / "study")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for words in (["--report", folder], [*SCHEDULES, "linear", "--seeds", "1", "--output_dir", folder, *SIZES]):
        limit_file_size(300)
        line = refused("study", *words)
        limit_file_size()
        assert "cannot be written: File too large" in line
        assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_varied_values_get_different_names(study, tmp_path):
    """Also an argument that is not among those of run.json."""
    runs = []
    for value in ("0.9", "0.95"):
        shutil.copytree(study[0] / RUNS[0], tmp_path / value)
        kind = {"schedule": "constant", "seed": 1, "varied": {"adam_beta1": value}, "without": None}
        runs.append({"folder": value, "tuned": {}, "tuning": False, **kind})
    write_json({"arguments": SIZES, "varied": ["adam_beta1"], "without": {}, "runs": runs}, tmp_path / "study.json")
    cli(["study", "--report", str(tmp_path)])
    text = (tmp_path / "results.md").read_text()
    assert "| constant, adam_beta1 0.9 | 1 |" in text and "| constant, adam_beta1 0.95 | 1 |" in text


def test_parts_are_left_out_one_at_a_time(python, tmp_path, refused):
    options = ["--schedules", "constant", "--seeds", "1", "--ema_decay", "0.9", "--cutmix_alpha", "1"]
    parts = ["--without", "ema:ema_decay=0", "--without", "all:ema_decay=0,cutmix_alpha=0"]
    program = ["-m", "hf_cifar_resnet", "study", *options, *parts, "--output_dir", tmp_path / "out", *SIZES]
    result = python(*program, "--max_steps", "2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    names = ("constant", "constant-without-ema", "constant-without-all")
    assert {path.parent.name for path in (tmp_path / "out").glob("*/run.json")} == {f"{name}-seed1" for name in names}
    used = [read_json(tmp_path / "out" / f"{name}-seed1" / "run.json")["arguments"] for name in names]
    assert [(run["ema_decay"], run["cutmix_alpha"]) for run in used] == [(0.9, 1.0), (0.0, 1.0), (0.0, 0.0)]
    text = (tmp_path / "out" / "results.md").read_text()
    assert "# Ablation study" in text and "Full recipe: constant, test top-1" in text
    assert all(f"| constant{name} | 1 |" in text for name in ("", ", without ema", ", without all"))
    program = [part.replace("ema:ema_decay=0", "ema:ema_decay=0.5") if part in parts else part for part in program]
    assert "holds a study with other arguments" in refused(*program[2:], "--max_steps", "2")


def test_each_schedule_is_compared_with_the_rate_that_validation_chose(python, tmp_path):
    """Tuned first, then fresh seeds; two runs at a time are bit-identical to one alone."""
    program = "-m hf_cifar_resnet study --tune learning_rate=0.01,0.1,1e30 --schedules constant --seeds 1 2 --jobs 2"
    result = python(*program.split(), "--output_dir", tmp_path / "out", *SIZES, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "learning_rate=1e30-tuning-seed0: FAILED (error: " in result.stdout
    tried = {
        value: read_json(tmp_path / "out" / f"constant-learning_rate={value}-tuning-seed0" / "metrics.json")
        for value in ("0.01", "0.1")
    }
    assert result.stdout.startswith("3 tuning runs, 2 at a time, in ") and "\n2 runs, 2 at a time" in result.stdout
    for value, metrics in tried.items():
        shown = (
            f"constant-learning_rate={value}-tuning-seed0: validation top-1 {metrics['validation']['top1']:.2%} after"
        )
        assert shown in result.stdout
    best = max(tried, key=lambda value: tried[value]["validation"]["top1"])
    names = {f"constant-learning_rate={best}-seed{seed}" for seed in (1, 2)}
    assert {path.parent.name for path in (tmp_path / "out").glob("*-seed[12]/metrics.json")} == names
    text = (tmp_path / "out" / "results.md").read_text()
    assert f"| constant | {best} | 2 |" in text and "1e30: none" in text and "of fresh seeds" in text
    assert (tmp_path / "out" / "tuning.png").read_bytes().startswith(b"\x89PNG")
    options = f"--lr_scheduler_type constant --learning_rate {best} --seed 1 --output_dir".split()
    cli(["train", *SIZES, *options, str(tmp_path / "alone")])
    folders = (tmp_path / "alone", tmp_path / "out" / f"constant-learning_rate={best}-seed1")
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 1
    for name in names:
        (tmp_path / "out" / name / "metrics.json").unlink()
    cli(["study", "--report", str(tmp_path / "out")])
    text = (tmp_path / "out" / "results.md").read_text()
    assert f"| constant | {best} |" in text and "2 runs are not finished" in text and "of fresh seeds" not in text


def test_a_range_is_searched_with_the_same_trials_again(python, tmp_path):
    pytest.importorskip("optuna")
    program = ["-m", "hf_cifar_resnet", "study", "--tune", "learning_rate=1e-3:1e-1:log", "--tuning_trials", "2"]
    program += ["--schedules", "constant", "--output_dir", tmp_path / "out", *SIZES, "--max_steps", "2"]
    first = python(*program, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    again = python(*program, cwd=tmp_path)
    assert again.returncode == 0 and "[1/" not in again.stdout, again.stdout
    assert len(list((tmp_path / "out").glob("constant-*-tuning-seed0"))) == 2


def test_a_branch_is_the_run_that_was_planned_for_its_budget(python, tmp_path):
    sizes = [part for part in SIZES if part not in ("--num_train_epochs", "2")]
    sizes += ["--warmup_steps", "10"]
    program = "-m hf_cifar_resnet study --cooldowns 5 10 --schedules warmup_stable_decay --seeds 1".split()
    result = python(*program, "--output_dir", tmp_path / "out", *sizes, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    short, long = (tmp_path / "out" / f"warmup_stable_decay-num_train_epochs={budget}-seed1" for budget in (5, 10))
    # It started with the long one's checkpoint at the end of epoch 4, of seven steps each.
    assert "checkpoint-28" in (short / "train.log").read_text()
    assert len(list(long.glob("checkpoint-*"))) <= 2
    options = "--lr_scheduler_type warmup_stable_decay --num_train_epochs 5 --seed 1 --output_dir".split()
    cli(["train", *sizes, *options, str(tmp_path / "alone")])
    assert (short / "model.safetensors").read_bytes() == (tmp_path / "alone" / "model.safetensors").read_bytes()
    scores = [read_json(folder / "metrics.json") for folder in (short, tmp_path / "alone")]
    assert scores[0]["test"] == scores[1]["test"] and scores[0]["best_epoch"] == scores[1]["best_epoch"]
    assert (tmp_path / "out" / "budgets.png").read_bytes().startswith(b"\x89PNG")
    assert "; 5 and 10 epochs; " in (tmp_path / "out" / "results.md").read_text()


def test_other_arguments_are_not_mixed_into_a_study(refused, study):
    line = refused("study", *SCHEDULES, "--output_dir", study[0], *SIZES, "--weight_decay", "0.1")
    assert "holds a study with other arguments" in line
