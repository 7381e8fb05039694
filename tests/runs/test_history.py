import math

import pytest

from hf_cifar_resnet.runs.history import History, HistoryRow

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
    first, second, third = History.from_log(LOG)
    assert first == HistoryRow(
        step=5, epoch=0.5, train_loss=2.0, train_accuracy=0.25, learning_rate=0.1, images_per_second=100.0,
        train_seconds=1.0,
    )  # fmt: skip
    assert (second.step, second.train_loss) == (10, 1.5)
    assert second.evaluation == {"eval_loss": 1.75, "eval_top1": 0.5, "eval_top5": 0.75}
    assert third.to_dict() == {"step": 20, "epoch": 2.0, "eval_loss": 1.25, "eval_top1": 0.625, "eval_top5": 1.0}
    assert History.from_log(LOG[::-1]) == History.from_log(LOG)


def test_scores_of_several_evaluation_sets_have_columns_of_their_own(tmp_path):
    log = [
        {"eval_mine_loss": 1.0, "eval_mine_top1": 0.5, "eval_mine_runtime": 1.0, "epoch": 1.0, "step": 10},
        {"eval_my_own_top1": 0.25, "eval_my_own_steps_per_second": 3.0, "epoch": 1.0, "step": 10},
    ]
    history = History.from_log(log)
    [row] = history
    assert row.evaluation == {"eval_mine_loss": 1.0, "eval_mine_top1": 0.5, "eval_my_own_top1": 0.25}
    history.write(tmp_path / "history.csv")
    assert History.read(tmp_path / "history.csv") == history


def test_points_of_a_column():
    history = History.from_log(LOG)
    assert history.points("eval_top1") == [(1.0, 0.5), (2.0, 0.625)]
    assert history.points("eval_superclass") == []


def test_history_round_trip(tmp_path):
    row = HistoryRow(step=30, epoch=3.0, train_loss=1 / 3, evaluation={"eval_superclass": 1e-17})
    diverged = HistoryRow(step=31, epoch=3.1, train_loss=math.nan)
    History([*History.from_log(LOG), row, diverged]).write(tmp_path / "history.csv")
    *read, last = History.read(tmp_path / "history.csv")
    assert read == [*History.from_log(LOG), row]
    assert last.step == 31 and last.train_loss is not None and math.isnan(last.train_loss)


def test_history_without_rows(tmp_path):
    History([]).write(tmp_path / "history.csv")
    assert History.read(tmp_path / "history.csv") == History([])
    (tmp_path / "history.csv").write_bytes(b"\r\n")  # as former versions wrote it
    assert History.read(tmp_path / "history.csv") == History([])


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "it is empty"),
        (b"step,epoch\r\n10,1.0\r\n20,2.", "it ends within a line"),
        (b"step,epoch,train_loss\r\n10,1.0\r\n", "line 2 has 2 cells, and the first line 3"),
        (b"step,epoch\r\n10,1.0\r\n20,two\r\n", "epoch in line 3 must be a number, got 'two'"),
        (b"step,epoch\r\n,1.0\r\n", "line 2 has no step"),
        (b"step,epoch\r\n1e999,1.0\r\n", "step in line 2 must be a finite number"),
        (b"step,train_loss\r\n10,1.0\r\n", "its first line does not name the columns step and epoch"),
        (b"step,epoch\r\n10,nan\r\n", "epoch in line 2 must be a finite number, got 'nan'"),
        (b"step,epoch,eval_top1\r\n10,1.0,nan\r\n", "eval_top1 in line 2 must be a finite number, got 'nan'"),
        (b"step,epoch\r\n\xff\xfe\r\n", "utf-8"),
        (b"\x00\x00\x00\n", "its first line"),
    ],
)
def test_damaged_history(tmp_path, content, message):
    path = tmp_path / "history.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="history.csv is damaged: ") as refused:
        History.read(path)
    assert message in str(refused.value) and "\n" not in str(refused.value)
