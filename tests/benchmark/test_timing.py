import random

import numpy as np
import pytest

from hf_cifar_resnet.benchmark import timing


def test_candidates_are_measured_in_turns():
    called = []
    candidates = {name: lambda name=name: called.append(name) or 1 for name in "abc"}
    rates = timing.measure_in_turns(candidates, repeats=4, seconds=0)
    assert called == [*"abc", *"abc", *"cba", *"abc", *"cba"]
    assert all(len(values) == 4 for values in rates.values())


def test_rate_is_the_work_done_in_the_time():
    amounts = []
    rate = timing.rate(lambda: amounts.append(5) or 5, seconds=0.01)
    assert 0 < rate <= sum(amounts) / 0.01


def test_ratio_is_that_of_the_turns():
    """A machine that slows down for both leaves the ratio alone."""
    slowing = np.linspace(10, 1, 20)
    found = timing.ratio(list(3 * slowing), list(slowing))
    assert found["median"] == pytest.approx(3) and found["interval"] == pytest.approx([3, 3]) and found["n"] == 20


@pytest.mark.parametrize("n, expected", [(1, (1, 1)), (5, (1, 5)), (6, (1, 6)), (9, (2, 8)), (20, (6, 15))])
def test_interval_of_the_median(n, expected):
    """Ranks from tables of the sign test."""
    turns = random.Random(0).sample(range(1, n + 1), n)
    assert timing.ratio(turns, [1] * n)["interval"] == list(expected)


def test_table_names_every_candidate():
    rates = {"slow": [1.0, 1.0, 1.0], "fast": [200.0, 200.0, 200.0]}
    head, slow, fast = timing.table(rates, {"slow": timing.compare(rates, "slow")}, "images/s").splitlines()
    assert "images/s" in head and "ratio to slow" in head
    assert slow.split()[:2] == ["slow", "1"] and fast.split()[:2] == ["fast", "200"]
    assert "200 (200 to 200)" in fast
