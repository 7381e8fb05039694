"""Several evaluation sets, which have names, and the name of the metric that the best epoch is chosen by."""

import pytest

from hf_cifar_resnet.runs.history import History

EPOCHS = {"num_train_epochs": 2, "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}


@pytest.fixture
def train_on_two(make_trainer, make_dataset):
    """Trains with two evaluation sets, and returns the trainer."""

    def train(**options):
        evaluated = {"easy": make_dataset(seed=1), "my_own": make_dataset(seed=2)}
        trainer = make_trainer(evaluate=evaluated, **EPOCHS | options)
        trainer.train()
        return trainer

    return train


def test_every_set_is_recorded_and_printed(train_on_two, capsys):
    trainer = train_on_two(metric_for_best_model="my_own_top1")
    for row in History.from_log(trainer.state.log_history):
        if row.evaluation:
            assert set(row.evaluation) == {
                f"eval_{name}_{score}" for name in ("easy", "my_own") for score in ("loss", "top1", "top5")
            }
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 4
    for line, name in zip(lines, ["easy", "my_own"] * 2, strict=True):
        assert f"| {name} loss " in line and f"{name} top-1 " in line


def test_early_stopping_follows_the_set_that_is_named(train_on_two, caplog):
    trainer = train_on_two(
        metric_for_best_model="easy_loss", greater_is_better=False, early_stopping_patience=1, num_train_epochs=20,
        learning_rate=0.5,
    )  # fmt: skip
    assert trainer.state.epoch < 20
    assert "early stopping is disabled" not in caplog.text


@pytest.mark.parametrize("metric", ["top1", "eval_loss", "hard_top1", "easy_top3", "easy"])
def test_metric_of_no_set_is_refused_before_training(train_on_two, tmp_path, metric):
    with pytest.raises(ValueError, match="metric_for_best_model must be one of easy_loss, .*, my_own_top5, got "):
        train_on_two(metric_for_best_model=metric)
    assert not list(tmp_path.glob("run/*"))


def test_metric_that_a_single_set_does_not_have_is_refused_before_training(make_trainer):
    with pytest.raises(ValueError, match="metric_for_best_model must be one of loss, top1, top5, got accuracy"):
        make_trainer(metric_for_best_model="accuracy", **EPOCHS).train()


def test_metric_of_ones_own_is_not_checked(make_trainer, make_dataset):
    evaluated = {"easy": make_dataset(seed=1), "my_own": make_dataset(seed=2)}
    trainer = make_trainer(
        evaluate=evaluated,
        metric_for_best_model="easy_mine",
        compute_metrics=lambda prediction: {"mine": 0.5},
        **EPOCHS,
    )
    trainer.train()
    assert trainer.state.best_metric == 0.5
