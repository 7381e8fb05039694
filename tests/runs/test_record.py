import copy
import json
from pathlib import Path

import pytest
from run_fixtures import METRICS, RECORD

from hf_cifar_resnet.documents import read_json, write_json
from hf_cifar_resnet.runs.arguments import RunArguments
from hf_cifar_resnet.runs.folder import RunFolder
from hf_cifar_resnet.runs.metrics import RunMetrics
from hf_cifar_resnet.runs.record import RunRecord

REPOSITORY = Path(__file__).parents[2]
FINISHED = sorted((REPOSITORY / "model_cards").glob("*/metrics.json"))


@pytest.mark.parametrize("path", FINISHED, ids=lambda path: path.parent.name)
def test_finished_runs_are_read_and_written_unchanged(path, tmp_path):
    folder = RunFolder(path.parent)
    folder.read_record().write(tmp_path / "run.json")
    folder.read_metrics().write(tmp_path / "metrics.json")
    folder.read_history().write(tmp_path / "history.csv")
    for name in ("run.json", "metrics.json"):
        assert (tmp_path / name).read_text() == (path.parent / name).read_text()
    assert RunFolder(tmp_path).read_history() == folder.read_history()
    assert len(folder.read_history()) > 1


def test_record_round_trip(tmp_path):
    record = RunRecord.from_dict(RECORD | {"id": "0123", "given": {"depth": 50, "learning_rate": 1e-3}})
    assert record.given == RunArguments({"depth": 50, "learning_rate": 1e-3})
    record.write(tmp_path / "run.json")
    assert RunRecord.read(tmp_path / "run.json") == record
    assert list(read_json(tmp_path / "run.json"))[:3] == ["command", "id", "given"]


def test_redacted_record():
    private = RECORD | {"command": ["train.py", "--output_dir=/home/ann/run", "hf_abcdefghijkl"]}
    assert RunRecord.from_dict(private).redacted().command == ["train.py", "--output_dir=run", "<HF_TOKEN>"]


def changed(content, place, value):
    """The content with another value at a place such as `dataset.name`; without it if the value is `...`."""
    content = copy.deepcopy(content)
    *sections, name = place.split(".")
    part = content
    for section in sections:
        part = part[int(section) if isinstance(part, list) else section]
    if value is ...:
        del part[name]
    else:
        part[name] = value
    return content


@pytest.mark.parametrize(
    "kind, content, place, value, message",
    [
        (RunRecord, RECORD, "dataset", ..., "it lacks dataset"),
        (RunRecord, RECORD, "dataset", [1], "dataset must be an object, got [1]"),
        (RunRecord, RECORD, "dataset.num_labels", "ten", "dataset.num_labels must be a number, got 'ten'"),
        (RunRecord, RECORD, "dataset.num_labels", 1.5, "dataset.num_labels must be a whole number, got 1.5"),
        (RunRecord, RECORD, "dataset.train", float("nan"), "dataset.train must be a finite number, got nan"),
        (RunRecord, RECORD, "dataset.train", 10**400, "dataset.train must be a finite number, got 1000"),
        (RunRecord, RECORD, "precision", "int8", "precision must be fp32, bf16 or fp16, got 'int8'"),
        (RunRecord, RECORD, "dataset.on_hub", 1, "dataset.on_hub must be true or false, got 1"),
        (RunRecord, RECORD, "model.name", None, "model.name must be a string, got None"),
        (RunRecord, RECORD, "command", "train.py", "command must be a list, got 'train.py'"),
        (RunRecord, RECORD, "command", ["train.py", 1], "command.1 must be a string, got 1"),
        (RunRecord, RECORD, "arguments.lr_scheduler_type", ..., "it lacks arguments.lr_scheduler_type"),
        (RunRecord, RECORD, "versions", [], "versions must be an object, got []"),
        (RunMetrics, METRICS, "test.top1", float("nan"), "test.top1 must be a finite number, got nan"),
        (RunMetrics, METRICS, "test.top1", True, "test.top1 must be a number, got True"),
        (RunMetrics, METRICS, "test.top1", ..., "it lacks test.top1"),
        (RunMetrics, METRICS, "selected_on", "train", "selected_on must be validation, test or none, got 'train'"),
        (RunMetrics, METRICS, "most_confused", [1], "most_confused.0 must be an object, got 1"),
        (RunMetrics, METRICS, "timing", ..., "it lacks timing"),
        (RunMetrics, METRICS, "best_epoch", "1" * 100, "best_epoch must be a number, got '1111"),
    ],
)
def test_damaged_file_is_named_with_the_field(tmp_path, kind, content, place, value, message):
    write_json(changed(content, place, value), tmp_path / "file.json")
    with pytest.raises(ValueError, match="file.json is damaged: ") as refused:
        kind.read(tmp_path / "file.json")
    assert message in str(refused.value) and len(str(refused.value)) < 200 + len(str(tmp_path))


@pytest.mark.parametrize("kind", [RunRecord, RunMetrics])
@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", "null", '{"command": []', json.dumps(RECORD)[:300]])
def test_file_that_is_no_record_at_all(tmp_path, kind, text):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ValueError, match="file.json is damaged: it "):
        kind.read(tmp_path / "file.json")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="run.json"):
        RunFolder(tmp_path).read_record()


def test_metrics_of_a_model_without_a_finite_loss_are_read(tmp_path):
    metrics = RunMetrics.from_dict(METRICS | {"test": {"loss": float("inf"), "top1": 0.01}})
    metrics.write(tmp_path / "metrics.json")
    assert RunMetrics.read(tmp_path / "metrics.json") == metrics
