import math

import pytest

from hf_cifar_resnet.runs.events import EventReader, RunEvent, append_event

LOGGED = RunEvent("log", step=7, steps=14, epoch=1.0, time=1e9, values={"loss": 0.5})


def test_events_are_read_once_and_in_order(tmp_path):
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    assert reader.read() == []
    append_event(LOGGED, path)
    assert reader.read() == [LOGGED] and reader.read() == []
    end = RunEvent("end", step=14, steps=14, epoch=2.0)
    append_event(LOGGED, path)
    append_event(end, path)
    assert reader.read() == [LOGGED, end]
    # A run that is resumed later has its own.
    assert EventReader(path).read() == []


def test_event_is_read_when_its_line_is_complete(tmp_path):
    path = tmp_path / "events.jsonl"
    append_event(LOGGED, path)
    line = path.read_bytes()
    path.write_bytes(b"")
    reader = EventReader(path)
    path.write_bytes(line[:20])
    assert reader.read() == []
    path.write_bytes(line)
    assert reader.read() == [LOGGED]


def test_loss_of_a_diverged_run(tmp_path):
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    append_event(RunEvent("log", step=1, steps=2, epoch=0.5, values={"loss": math.nan}), path)
    [event] = reader.read()
    assert math.isnan(event.values["loss"])


@pytest.mark.parametrize("step, steps, progress", [(0, 10, 0), (5, 10, 0.5), (12, 10, 1), (0, 0, 0)])
def test_progress(step, steps, progress):
    assert RunEvent("log", step, steps, 1.0).progress == progress


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"{}", b'{"event": "boom"}', b'{"event": "log", "step": "one"}', b"\xff"]
)
def test_damaged_event_is_logged_and_those_after_it_are_read(tmp_path, caplog, line):
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    path.write_bytes(line)  # cut off, as on a full disk
    append_event(LOGGED, path)
    assert reader.read() == [LOGGED]
    assert "events.jsonl is damaged: " in caplog.text
