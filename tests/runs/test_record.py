import math
from types import SimpleNamespace

import pytest

from hf_cifar_resnet.documents import read_json, write_json
from hf_cifar_resnet.runs.history import history_rows, read_history, write_history
from hf_cifar_resnet.runs.metrics import make_metrics
from hf_cifar_resnet.runs.record import redact
from hf_cifar_resnet.runs.scores import select_scores

LOG = [
    {"loss": 2.0, "grad_norm": 1.0, "learning_rate": 0.1, "accuracy": 0.25, "images_per_second": 100.0,
     "seconds": 1.0, "epoch": 0.5, "step": 5},
    {"loss": 1.5, "learning_rate": 0.05, "accuracy": 0.5, "images_per_second": 110.0, "seconds": 2.0,
     "epoch": 1.0, "step": 10},
    {"eval_loss": 1.75, "eval_top1": 0.5, "eval_top5": 0.75, "eval_runtime": 0.1, "epoch": 1.0, "step": 10},
    {"eval_loss": 1.25, "eval_top1": 0.625, "eval_top5": 1.0, "epoch": 2.0, "step": 20},
    {"train_loss": 1.6, "train_runtime": 3.0, "epoch": 2.0, "step": 20},
    {"test_loss": 1.3, "test_top1": 0.5, "epoch": 2.0, "step": 20},
]  # fmt: skip


def test_history_has_a_row_for_each_step():
    first, second, third = history_rows(LOG)
    assert first == {
        "step": 5, "epoch": 0.5, "train_loss": 2.0, "train_accuracy": 0.25, "learning_rate": 0.1,
        "images_per_second": 100.0, "train_seconds": 1.0,
    }  # fmt: skip
    assert (second["step"], second["train_loss"], second["eval_loss"], second["eval_top1"]) == (10, 1.5, 1.75, 0.5)
    assert third == {"step": 20, "epoch": 2.0, "eval_loss": 1.25, "eval_top1": 0.625, "eval_top5": 1.0}

    assert history_rows(LOG[::-1]) == history_rows(LOG)


def test_speed_is_that_of_the_whole_training():
    state = SimpleNamespace(log_history=LOG, global_step=20, epoch=2.0, best_model_checkpoint=None)
    args = SimpleNamespace(load_best_model_at_end=False, metric_for_best_model="top1")
    assert make_metrics(state, args, "none")["timing"] == {"train_seconds": 2.0, "images_per_second": 105.0}
    state.log_history = []
    assert make_metrics(state, args, "none")["timing"] == {"train_seconds": None, "images_per_second": None}


def test_files_are_read_as_they_were_written(tmp_path):
    rows = [*history_rows(LOG), {"step": 30, "epoch": 3.0, "train_loss": 1 / 3, "eval_superclass": 1e-17}]
    write_history([*rows, {"step": 31, "train_loss": math.nan}], tmp_path / "history.csv")
    *read, last = read_history(tmp_path / "history.csv")
    assert read == rows and math.isnan(last["train_loss"])
    content = {"name": "Grün", "values": [1, 2.5, None], "below": {"a": True}}
    write_json(content, tmp_path / "file.json")
    assert read_json(tmp_path / "file.json") == content


def test_scores_lose_their_prefix():
    assert select_scores({"test_loss": 1.0, "test_top1": 0.5, "test_runtime": 3.0, "eval_top1": 0.1}, "test") == {
        "loss": 1.0,
        "top1": 0.5,
    }


@pytest.mark.parametrize(
    "value, redacted",
    [
        ("/home/ann/data/cifar", "cifar"),
        ("/home/ann/my data/ci far/", "ci far"),
        ("C:\\Users\\ann\\cifar", "cifar"),
        ("~/cifar", "cifar"),
        ("../shared/cifar", "cifar"),
        ("--output_dir=/scratch/ann/run", "--output_dir=run"),
        ("--hub_token=hf_abcdefghijkl", "--hub_token=<HF_TOKEN>"),
        ("hf_abcdefghijkl", "<HF_TOKEN>"),
        ("uoft-cs/cifar100", "uoft-cs/cifar100"),
        ("runs/mine", "runs/mine"),
        ("hf_cifar_resnet", "hf_cifar_resnet"),
        ("cosine", "cosine"),
        ("", ""),
        (0.5, 0.5),
        (None, None),
        ({"a": ["/x/y", {"b": "/z"}], "c": True}, {"a": ["y", {"b": "z"}], "c": True}),
    ],
)
def test_tokens_and_local_paths_are_redacted(value, redacted):
    assert redact(value) == redacted
