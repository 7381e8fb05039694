"""What a process does that a launcher has left variables to, and has not started the others."""

import socket

import pytest

from hf_cifar_resnet import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    CifarTrainingArguments,
    processes,
)
from hf_cifar_resnet.processes import wait_for_processes


@pytest.fixture
def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    return str(port)


@pytest.fixture
def left_behind(monkeypatch, free_port):
    """Sets variables as a launcher does; those of the address too unless they are given."""

    def put(**variables):
        for name, value in ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port} | variables).items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    "variables, missing",
    [
        ({"WORLD_SIZE": "2"}, "1 of the 2 processes .* (RANK 1)"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "1 of the 2 processes .* (RANK 1)"),
        ({"WORLD_SIZE": "16", "RANK": "0"}, "15 of the 16 processes .* (RANK 1, 2, 3, 4, 5, 6, 7, 8, ...)"),
        # Rank 0 knows who has come, and is not there.
        ({"WORLD_SIZE": "2", "RANK": "1"}, "1 of the 2 processes .* (RANK 0)"),
        ({"WORLD_SIZE": "4", "RANK": "3", "TORCHELASTIC_USE_AGENT_STORE": "True"}, "1 of the 4 processes .* (RANK 0)"),
    ],
)
def test_missing_processes_are_counted(left_behind, variables, missing):
    left_behind(**variables)
    pattern = missing.replace("(", r"\(").replace(")", r"\)").replace("...)", r"\.\.\.)")
    names = [name for name in processes.LAUNCHER if name in {"MASTER_ADDR", "MASTER_PORT", *variables}]
    with pytest.raises(ValueError, match=pattern) as error, wait_for_processes(timeout=1):
        raise AssertionError("the process group would be made")
    assert f"WORLD_SIZE={variables['WORLD_SIZE']}" in str(error.value) and "MASTER_ADDR=127.0.0.1" in str(error.value)
    assert str(error.value).endswith(f"if no launcher started this process, unset {', '.join(names)}")


def test_they_are_reported_while_they_are_waited_for(left_behind, monkeypatch, caplog):
    left_behind(WORLD_SIZE="2", RANK="0")
    monkeypatch.setattr(processes, "PATIENCE", 0.1)
    with pytest.raises(ValueError), wait_for_processes(timeout=1):
        pass
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("Waiting: 1 of the 2 processes") and line.endswith("MASTER_PORT")


def test_port_that_is_taken(left_behind):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        left_behind(WORLD_SIZE="2", RANK="0", MASTER_PORT=port)
        with pytest.raises(ValueError, match=f"MASTER_PORT={port} is taken"), wait_for_processes(timeout=5):
            pass


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "", "RANK": ""}])
def test_single_process_waits_for_nobody(left_behind, variables):
    left_behind(**variables)
    with wait_for_processes(timeout=1):
        pass


WRONG = [
    ({"WORLD_SIZE": "2"}, "MASTER_ADDR= do not say"),
    ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1"}, "RANK=2"),
    ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two is no number"),
    ({"WORLD_SIZE": "2", "RANK": "-1", "MASTER_ADDR": "127.0.0.1"}, "RANK=-1 is no number"),
    ({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "99999"}, "MASTER_PORT=99999 is no port"),
    ({"LOCAL_RANK": "0"}, "MASTER_ADDR"),
    ({"PMI_SIZE": "2"}, "MASTER_ADDR"),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, "MASTER_ADDR"),
]


@pytest.mark.parametrize("variables, reason", WRONG)
def test_variables_that_cannot_be_a_launchers(monkeypatch, tmp_path, variables, reason):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=reason) as error:
        CifarTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    names = [name for name in processes.LAUNCHER if name in variables]
    assert f"if no launcher started this process, unset {', '.join(names)}" in str(error.value)


def test_rank_that_is_left_alone_changes_nothing(left_behind):
    left_behind(RANK="1")
    assert processes.is_rank_0()


@pytest.mark.parametrize("command", ["train", "find-lr", "benchmark step"])
def test_command_ends_with_one_line(left_behind, refused, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    left_behind(WORLD_SIZE="2", RANK="0")
    line = refused(*command.split(), "--config", "quickstart", "--use_cpu", "--ddp_timeout", "1")
    assert "1 of the 2 processes" in line and "unset RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT" in line
    assert not list(tmp_path.iterdir())


def test_script_ends_with_one_line(left_behind, tmp_path):
    left_behind(WORLD_SIZE="2", RANK="0")
    with pytest.raises(ValueError, match="1 of the 2 processes"):
        CifarTrainingArguments(output_dir=str(tmp_path), use_cpu=True, ddp_timeout=1)


def test_evaluate_ends_with_one_line(refused, tmp_path, monkeypatch):
    config = CifarResNetConfig(block="basic", stage_depths=[1], stage_widths=[16], num_labels=100)
    CifarResNetForImageClassification(config).save_pretrained(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = refused("evaluate", tmp_path, "--dataset_name", "shapes100", "--use_cpu")
    assert "WORLD_SIZE=2" in line and "in one process" in line
