"""Runs of a study on this machine."""

import pytest

from hf_cifar_resnet.device import count_cores
from hf_cifar_resnet.study.local import count_threads


@pytest.mark.parametrize(
    "given, threads", [("3", 3), ("4,2", 4), (" 2 ", 2), *((text, None) for text in ("", "many", "0", "-1", "1.5"))]
)
def test_threads_of_a_run(monkeypatch, given, threads):
    """OpenMP allows a list, and ignores what is no number."""
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert count_threads(1) == (threads or count_cores())
