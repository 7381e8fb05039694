"""A run that is resumed with other arguments: what would mix two runs is refused, and all else takes effect."""

import json
import shutil

import pytest

from hf_cifar_resnet.cli import main as cli
from hf_cifar_resnet.documents import read_json
from hf_cifar_resnet.runs.history import History

T = (
    "train --dataset_name shapes100 --block basic --stage_depths 1 --stage_widths 16 --max_train_samples 200 "
    "--max_eval_samples 100 --global_batch_size 32 --use_cpu --bf16 false --save_total_limit -1 "
    "--lr_scheduler_type constant --warmup_steps 0 --seed 3"
).split()
EPOCHS = ["--num_train_epochs", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two epochs, of seven steps each."""
    folder = tmp_path_factory.mktemp("resumed") / "run"
    cli([*T, *EPOCHS, "--output_dir", str(folder)])
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def interrupted(run):
    """The same run as it was after its first epoch."""
    kept = {"run.json", "checkpoint-7"}
    for path in run.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return run


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(
    "argument, value",
    [
        ("global_batch_size", "64"),
        ("global_batch_size", "16"),
        ("max_train_samples", "100"),
        ("max_eval_samples", "50"),
        ("validation_fraction", "0.3"),
        ("split_seed", "5"),
        ("eval_split", "test"),
        ("image_size", "16"),
        ("metric_for_best_model", "loss"),
        ("early_stopping_patience", "3"),
        ("ema_decay", "0.9"),
    ],
)
def test_argument_that_would_mix_two_runs_is_refused_and_named(interrupted, refused, argument, value):
    before = contents(interrupted)
    resume = ["--output_dir", interrupted, "--resume_from_checkpoint", "auto"]
    with_change = [*T, *EPOCHS, f"--{argument}", value]
    line = refused(*with_change, *resume)
    assert f"checkpoint-7 cannot be resumed: {argument} must stay" in line
    assert contents(interrupted) == before


@pytest.mark.parametrize("argument", ["--greater_is_better false", "--dataloader_drop_last true"])
def test_argument_that_only_the_checkpoint_records_must_stay_too(interrupted, capsys, argument):
    before = contents(interrupted)
    with pytest.raises(SystemExit, match="2"):
        cli([*T, *EPOCHS, *argument.split(), "--output_dir", str(interrupted), "--resume_from_checkpoint", "auto"])
    [line] = capsys.readouterr().err.splitlines()
    assert f"checkpoint-7 cannot be resumed: {argument.split()[0].removeprefix('--')} must stay" in line
    assert contents(interrupted) == before


def test_other_spelling_of_an_argument_is_no_change(interrupted):
    spelled = ["--metric_for_best_model", "eval_top1", "--augmentation", "seed"]
    cli([*T, *EPOCHS, *spelled, "--output_dir", str(interrupted), "--resume_from_checkpoint", "auto"])
    assert read_json(interrupted / "run.json")["changed_arguments"] == {}
    cli([*T, "--num_train_epochs", "3", "--output_dir", str(interrupted), "--resume_from_checkpoint", "auto"])
    assert read_json(interrupted / "run.json")["changed_arguments"] == {"num_train_epochs": [2.0, 3.0]}


@pytest.mark.parametrize(
    "changes",
    ["--learning_rate 9", "--weight_decay 0.5", "--augmentation none", "--num_train_epochs 1", "--dropout 0.5"],
)
def test_change_after_the_end_is_refused_since_it_would_only_be_recorded(run, refused, changes):
    before = contents(run)
    line = refused(*T, *EPOCHS, *changes.split(), "--output_dir", run, "--resume_from_checkpoint", "auto")
    name, value = changes.removeprefix("--").split()
    assert f"the run would end there, at step 14, so that {name} {float(value) if value != 'none' else value}" in line
    assert contents(run) == before


def test_other_learning_rate_and_more_epochs_apply_from_the_checkpoint_on(run, capsys):
    more = ["--num_train_epochs", "3", "--learning_rate", "0.1"]
    cli([*T, *more, "--output_dir", str(run), "--resume_from_checkpoint", "auto"])
    assert "with changed arguments from step 14 on: learning_rate 0.001 -> 0.1, num_train_epochs 2" in (
        capsys.readouterr().out
    )
    rows = History.read(run / "history.csv").to_dicts()
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.001, 0.001, 0.1])


@pytest.mark.parametrize("is_former", [False, True], ids=["", "the record of a former version"])
@pytest.mark.parametrize(
    "argument, before, now",
    [
        ("adam_beta1", 0.9, 0.5),
        ("adam_beta2", 0.999, 0.9),
        ("adam_epsilon", 1e-8, 1e-3),
        ("data_seed", None, 7),
        ("eval_delay", 0, 2),
        ("eval_on_start", False, True),
    ],
)
def test_every_argument_that_decides_the_result_is_reported(interrupted, argument, before, now, is_former, capsys):
    """Also where the record has not got it, and the checkpoint has."""
    record = read_json(interrupted / "run.json")
    if is_former:
        assert record["arguments"].pop(argument) == before
        (interrupted / "run.json").write_text(json.dumps(record))
    resume = ["--output_dir", str(interrupted), "--resume_from_checkpoint", "auto"]
    cli([*T, *EPOCHS, f"--{argument}", str(now).lower(), *resume])
    assert f"with changed arguments from step 7 on: {argument} {before} -> {now}" in capsys.readouterr().out
    record = read_json(interrupted / "run.json")
    assert record["changed_arguments"] == {argument: [before, now]} and record["arguments"][argument] == now


def test_another_precision_is_reported_as_a_change(interrupted, capsys):
    cli([*T, *EPOCHS, "--bf16", "true", "--output_dir", str(interrupted), "--resume_from_checkpoint", "auto"])
    assert "with changed arguments from step 7 on: precision fp32 -> bf16" in capsys.readouterr().out
    assert read_json(interrupted / "run.json")["changed_arguments"] == {"precision": ["fp32", "bf16"]}
    # Nothing is left to train in it, and it may be that of another machine.
    for name in ("metrics.json", "model.safetensors"):
        (interrupted / name).unlink()
    cli([*T, *EPOCHS, "--output_dir", str(interrupted), "--resume_from_checkpoint", "auto"])


def test_earlier_checkpoint_with_other_arguments_is_not_mixed_with_later_ones(run, refused):
    line = refused(*T, *EPOCHS, "--learning_rate", "0.1", "--resume_from_checkpoint", run / "checkpoint-7")
    assert "has later checkpoints than checkpoint-7, such as checkpoint-14" in line
    assert (run / "checkpoint-14").is_dir()


def test_output_dir_with_another_run_is_refused(run, tmp_path, refused):
    other = shutil.copytree(run, tmp_path / "other")
    before = contents(other)
    for resume in (run / "checkpoint-14", run / "checkpoint-7"):
        line = refused(*T, "--num_train_epochs", "3", "--output_dir", other, "--resume_from_checkpoint", resume)
        assert "other holds a run already" in line
    assert contents(other) == before


@pytest.mark.parametrize("epochs", ["3", "2"], ids=["trained on", "already finished"])
def test_run_that_is_resumed_in_another_folder_can_be_resumed_there(run, tmp_path, capsys, epochs):
    """Also if its best model is of the time before, and the first folder is gone."""
    state = read_json(run / "checkpoint-14" / "trainer_state.json")
    new = tmp_path / "new"
    resume = ["--resume_from_checkpoint", str(run / "checkpoint-14"), "--num_train_epochs", epochs]
    cli([*T, *resume, "--output_dir", str(new)])
    best = read_json(new / "metrics.json")["best_epoch"]
    shutil.rmtree(run)
    for name in ("metrics.json", "model.safetensors"):
        (new / name).unlink()
    cli([*T, "--num_train_epochs", epochs, "--resume_from_checkpoint", "auto", "--output_dir", str(new)])
    assert read_json(new / "metrics.json")["best_epoch"] == best
    assert state["best_global_step"] in (7, 14)
    assert json.loads((new / "run.json").read_text())["id"]
