"""Numbers of the error analysis, against values worked out by hand or by another way."""

import numpy as np
import pytest

from hf_cifar_resnet.evaluation import analysis

NAMES = ["cat", "dog", "oak", "pine"]


def logits_for(predicted, num_labels=4, margin=5.0):
    return margin * np.eye(num_labels, dtype=np.float32)[predicted]


def test_confusion_has_labels_as_rows():
    matrix = analysis.confusion_matrix([1, 1, 0, 2], [0, 0, 0, 2], 3)
    assert matrix.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(analysis.class_accuracy(matrix), [1 / 3, np.nan, 1])


def test_most_confused_counts_both_directions():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 3])
    predicted = np.array([1, 1, 0, 0, 1, 3, 2, 0])
    pairs = analysis.most_confused(logits_for(predicted), labels, NAMES, 2)
    assert pairs == [
        {"classes": ["cat", "dog"], "count": 3, "share": 3 / 5},
        # As often as oak and pine, and first in the order of the classes.
        {"classes": ["cat", "pine"], "count": 1, "share": 1 / 4},
    ]
    assert analysis.most_confused(logits_for([0, 1, 2]), np.array([0, 1, 2]), NAMES) == []


def test_calibration_error_by_hand():
    """Two images 0.75 sure, one right: off by 0.25. Two 0.95 sure, both right: off by 0.05."""
    probs = np.array([[0.75, 0.25], [0.75, 0.25], [0.95, 0.05], [0.05, 0.95]])
    found = analysis.reliability(probs, np.array([0, 1, 0, 1]), num_bins=10)
    assert found.ece == pytest.approx((2 * 0.25 + 2 * 0.05) / 4)
    assert found.count.tolist() == [0, 0, 0, 0, 0, 0, 0, 2, 0, 2]
    assert found.accuracy[[7, 9]].tolist() == [0.5, 1.0]
    # Every confidence falls in a bin.
    probs = np.array([[1.0, 0.0], [0.5, 0.5]])
    assert analysis.reliability(probs, np.array([0, 0])).count.sum() == 2


def test_temperature_undoes_a_scaling_of_the_logits():
    """Labels drawn from the softmax of logits, and a model that says three times those logits."""
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(20_000, 5))
    labels = np.array([rng.choice(5, p=p) for p in analysis.probabilities(honest)])
    temperature = analysis.fit_temperature(3 * honest, labels)
    assert temperature == pytest.approx(3, rel=0.05)
    before = analysis.reliability(analysis.probabilities(3 * honest), labels).ece
    after = analysis.reliability(analysis.probabilities(3 * honest, temperature), labels).ece
    assert after < 0.02 < 0.1 < before


def test_probabilities_survive_huge_logits():
    np.testing.assert_allclose(analysis.probabilities([[1e4, 0], [0, 0]]), [[1, 0], [0.5, 0.5]])


def test_most_confident_mistakes_come_first():
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.99, 0.01]])
    assert analysis.confident_mistakes(probs, np.array([1, 1, 0, 0]), 2).tolist() == [0, 2]


def test_mcnemar_counts_only_what_differs():
    first = np.array([True] * 9 + [False] * 1 + [True] * 5)
    second = np.array([False] * 9 + [True] * 1 + [True] * 5)
    found = analysis.mcnemar(first, second)
    assert (found.both, found.only_first, found.only_second, found.neither) == (5, 9, 1, 0)
    # Of ten fair coins at most one or at least nine heads: 22 of 1,024.
    assert found.p == pytest.approx(22 / 1024)
    assert analysis.mcnemar(first, first).p == 1
