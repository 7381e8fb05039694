"""What a study takes from the files of a finished run."""

import csv

import pytest

from hf_cifar_resnet.runs.arguments import RunArguments
from hf_cifar_resnet.runs.folder import RunFolder
from hf_cifar_resnet.study.report import write_report
from hf_cifar_resnet.study.result import RunResult

from .conftest import write_run


@pytest.fixture
def run(tmp_path):
    """The folder of a run of three epochs, with a train accuracy of 90% in the last one and a top-1 of 50%."""
    write_run(tmp_path / "run", RunArguments({}), validation=0.5)
    return RunFolder(tmp_path / "run")


def test_accuracy_reached_at_a_step_whose_time_was_not_logged_is_not_never_reached(run):
    """As with evaluations between the logs; the seconds to it are not known."""
    path = run.path / "history.csv"
    header, *rows = csv.reader(path.open(newline=""))
    rows[-1][header.index("train_seconds")] = ""
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    text = write_report(run.path.parent, [0.1, 0.5])
    assert "| 1.0 | 3 | 3.0 |  |" in text and "never" not in text


@pytest.mark.parametrize("logged", [0.3, None])
def test_train_accuracy_is_the_mean_of_the_last_epoch(run, logged):
    """Whatever was logged last, such as that of a few steps."""
    path = run.path / "history.csv"
    header, *rows = csv.reader(path.open(newline=""))
    rows[-1][header.index("train_accuracy")] = "" if logged is None else logged
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    result = RunResult.read(run)
    assert result.train_accuracy == 0.9
    assert result.gap == pytest.approx(0.4)
