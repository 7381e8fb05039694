"""`--eval_split none --validation_fraction 0`: all training images, and no evaluation before test is scored."""

import pytest

from hf_cifar_resnet.commands.train import main
from hf_cifar_resnet.documents import read_json
from hf_cifar_resnet.runs.history import History
from hf_cifar_resnet.study.report import write_report

ALL_IMAGES = "--config quickstart --use_cpu --eval_split none --validation_fraction 0".split()
SMALL = "--max_train_samples 64 --max_eval_samples 20 --stage_depths 1 --stage_widths 16 --num_train_epochs 2".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "run"
    main([*ALL_IMAGES, *SMALL, "--ema_decay", "0.5", "--output_dir", str(folder)])
    return folder


def test_last_model_is_kept_and_test_is_scored_once(run):
    metrics, rows = read_json(run / "metrics.json"), History.read(run / "history.csv").to_dicts()
    assert metrics["selected_on"] == "none" and metrics["validation"] is None and metrics["best_epoch"] == 2
    assert metrics["test"]["top1"] >= 0
    assert len(rows) == 2 and not any(name.startswith("eval_") for row in rows for name in row)
    assert read_json(run / "run.json")["dataset"]["validation"] == 0


def test_card_and_report_say_so(run):
    said = "No training images were held out, and nothing was evaluated"
    assert said in (run / "README.md").read_text()
    report = write_report(run.parent)
    assert said in report and "validation" not in report


def test_finished_run_is_resumed_to_the_same_model(run):
    before = (run / "model.safetensors").read_bytes()
    main([*ALL_IMAGES, *SMALL, "--ema_decay", "0.5", "--output_dir", str(run), "--resume_from_checkpoint", "auto"])
    assert (run / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "argument",
    ["--lr_scheduler_type reduce_lr_on_plateau", "--lr_scheduler_type greedy", "--early_stopping_patience 2",
     "--eval_strategy epoch", "--save_strategy best", "--load_best_model_at_end", "--eval_on_start"],
)  # fmt: skip
def test_what_needs_evaluations_is_refused(refused, tmp_path, argument):
    line = refused("train", *ALL_IMAGES, *argument.split(), "--output_dir", tmp_path / "out")
    assert argument.split()[0] in line and "eval_split none" in line
    assert not (tmp_path / "out").exists()


def test_images_are_not_held_out_for_nothing(refused, tmp_path):
    line = refused("train", "--config", "quickstart", "--eval_split", "none", "--output_dir", tmp_path / "out")
    assert "validation_fraction 0" in line


def test_nothing_is_chosen_without_evaluations(refused, tmp_path):
    tuned = ["study", "--schedules", "cosine", "--tune", "learning_rate=0.1,0.2"]
    line = refused(*tuned, *ALL_IMAGES, "--output_dir", tmp_path / "out")
    assert "eval_split none makes none" in line and not (tmp_path / "out").exists()
