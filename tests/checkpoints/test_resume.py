"""A run that is resumed from a checkpoint is bit-identical to one that never stopped."""

import pytest
from safetensors.torch import load_file

from hf_cifar_resnet.data.policies import Augmenter, build_policy

# All that depends on a history: random numbers, averages, moments, counts, patience.
OPTIONS = {
    "everything at once": {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"patience": 0},
        "ema_decay": 0.9,
        "mixup_alpha": 0.5,
        "cutmix_alpha": 0.5,
        "mixing_probability": 0.8,
        "mixing_stop_epoch": 0.7,
        "gradient_accumulation_steps": 2,
        "eval_steps": 3,
        "save_steps": 3,
        "early_stopping_patience": 9,
        "load_best_model_at_end": True,
    },
    "workers": {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "num_train_epochs": 2},
    "saves within epochs, evaluations after them": {"eval_strategy": "epoch", "num_train_epochs": 2},
    "saves of the best": {"save_strategy": "best", "metric_for_best_model": "top1"},
    "end within an epoch": {"max_steps": 12},
    "early stop": {"early_stopping_patience": 1, "load_best_model_at_end": True, "learning_rate": 1.0},
    "schedule-free": {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant_with_warmup", "save_steps": 3},
    "one cycle": {"lr_scheduler_type": "one_cycle", "logging_strategy": "steps", "logging_steps": 4},
}
TIMES = ("runtime", "second", "data_wait")


@pytest.fixture
def train(make_trainer, make_dataset, make_model, tmp_path):
    """One run in a folder of its own; its trainer, and its history without times."""

    def run(folder, resume=None, **options):
        steps = {
            "num_train_epochs": 3, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2,
            "logging_strategy": "epoch", "learning_rate": 0.05,
        }  # fmt: skip
        trainer = make_trainer(
            folder,
            model=make_model(dropout=0.2, drop_path_rate=0.2),
            train=make_dataset(augmenter=Augmenter(build_policy("crop_flip_jitter", 8), seed=1)),
            evaluate=make_dataset(24, seed=1),
            **(steps | options),
        )
        trainer.train(resume_from_checkpoint=resume and str(tmp_path / resume))
        trainer.save_model()
        return trainer

    return run


def history(trainer):
    return [
        {name: value for name, value in entry.items() if not any(time in name for time in TIMES)}
        for entry in trainer.state.log_history
    ]


def weights(folder):
    """The bytes of every file of weights, averages among them, and of optimizer and schedule in a checkpoint."""
    files = [file for ending in ("safetensors", "pt") for file in folder.glob(f"*.{ending}")]
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("name", [pytest.param("everything at once", marks=pytest.mark.lowest), *list(OPTIONS)[1:]])
def test_every_checkpoint_leads_to_the_same_end(train, tmp_path, name):
    if name == "schedule-free":
        pytest.importorskip("schedulefree")
    whole = train("whole", **OPTIONS[name])
    stops = sorted((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    assert len(stops) > 1 or name == "saves of the best"
    # Persistent workers of a trainer that is gone take five seconds each to end.
    again = OPTIONS[name] | {"dataloader_persistent_workers": False}
    for stop in [*stops[: -1 : max(1, len(stops) // 2)], stops[-1]]:
        folder = f"resumed from {stop.name}"
        resumed = train(folder, f"whole/{stop.name}", **again)
        assert weights(tmp_path / folder) == weights(tmp_path / "whole"), stop.name
        assert stop == stops[-1] or weights(tmp_path / folder / stops[-1].name) == weights(stops[-1]), stop.name
        assert history(resumed) == history(whole), stop.name
        assert resumed.state.best_metric == whole.state.best_metric
    if name == "workers":
        train("without", **again | {"dataloader_num_workers": 0})
        assert weights(tmp_path / "without") == weights(tmp_path / "whole")
    if name == "everything at once":
        # The rates were really cut, and the averages are others than the weights.
        assert len({entry["learning_rate"] for entry in history(whole) if "learning_rate" in entry}) > 1
        model, averages = (load_file(stops[-1] / f"{kind}.safetensors") for kind in ("model", "ema"))
        assert any(not model[key].equal(averages[key]) for key in model)


def test_a_resumed_run_evaluates_saves_and_logs_at_its_own_steps(train, tmp_path):
    train("before", num_train_epochs=1, eval_steps=5, save_steps=5)
    every = {"eval_steps": 2, "save_steps": 3, "logging_strategy": "steps", "logging_steps": 4}
    trainer = train("after", resume="before/checkpoint-5", num_train_epochs=2, **every)
    later = [entry for entry in trainer.state.log_history if entry["step"] > 5]
    assert [entry["step"] for entry in later if "eval_loss" in entry] == [6, 8, 10]
    assert trainer.state.logging_steps == 4
    found = {path.name for path in (tmp_path / "after").glob("checkpoint-*")}
    assert {"checkpoint-6", "checkpoint-9"} <= found
