"""`--report_to` with the real TensorBoard and Trackio, offline: figures, names, and one run for training and test."""

import math

import pytest

from hf_cifar_resnet.commands.train import main
from hf_cifar_resnet.documents import read_json
from hf_cifar_resnet.runs.history import History

TWO_EPOCHS = ["--max_steps", "-1", "--num_train_epochs", "2", "--max_train_samples", "64"]


def expected(folder):
    """(name, step) to value of what was recorded, under the names that a tracker shows."""
    prefixed = "train_loss train_accuracy train_seconds eval_loss eval_top1 eval_superclass".split()
    names = {name: name.replace("_", "/") for name in prefixed}
    names |= {name: f"train/{name}" for name in ("images_per_second", "learning_rate")}
    rows = History.read(folder / "history.csv").to_dicts()
    assert len(rows) == 2
    shown = {(shown, row["step"]): row[name] for row in rows for name, shown in names.items()}
    test = read_json(folder / "metrics.json")["test"]
    return shown | {(f"test/{name}", rows[-1]["step"]): value for name, value in test.items()}


@pytest.mark.lowest
def test_tensorboard(quick, tmp_path):
    pytest.importorskip("tensorboard", reason="not tested: TensorBoard, which is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    main([*quick, *TWO_EPOCHS, "--report_to", "tensorboard", "--output_dir", str(tmp_path)])
    files = sorted(tmp_path.glob("runs/*/events*"))
    found = {}
    for file in files:
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            found |= {(tag, event.step): event.value for event in events.Scalars(tag)}
    assert {key: found.get(key, math.nan) for key in expected(tmp_path)} == pytest.approx(expected(tmp_path), rel=1e-5)
    assert not {"train/train_accuracy", "train/train_seconds"} & {tag for tag, _ in found}


@pytest.mark.lowest
def test_trackio(quick, tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio", reason="not tested: Trackio, which is not installed")
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    main([*quick, *TWO_EPOCHS, "--report_to", "trackio", "--output_dir", str(tmp_path / "my-run")])
    trackio.finish()
    assert SQLiteStorage.get_runs("huggingface") == ["my-run"]
    found, step = {}, None
    for row in SQLiteStorage.get_logs("huggingface", "my-run"):
        step = row.get("train/global_step", step)
        found |= {(name, step): value for name, value in row.items()}
    assert {key: found.get(key) for key in expected(tmp_path / "my-run")} == pytest.approx(
        expected(tmp_path / "my-run")
    )
