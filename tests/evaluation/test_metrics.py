import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from hf_cifar_resnet.evaluation.metrics import Scorer


def noise(count, num_labels, seed, levels=None):
    """Logits and labels; with `levels`, many logits are equal."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (count, num_labels))
    if levels:
        logits = generator.integers(0, levels, (count, num_labels))
    return logits.astype(np.float32), generator.integers(0, num_labels, count)


def in_top(row, label, k):
    """Sorted by falling logit, the lower class first among equals."""
    return label in sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]


@pytest.mark.parametrize("levels", [None, 2, 4])
@pytest.mark.parametrize("k, num_labels", [(1, 2), (1, 7), (5, 100), (5, 7)])
def test_top_k(k, num_labels, levels):
    logits, labels = noise(53, num_labels, seed=k, levels=levels)
    expected = np.mean([in_top(row, label, k) for row, label in zip(logits, labels, strict=True)])
    assert Scorer().compute(predictions=logits, references=labels)[f"top{k}"] == pytest.approx(expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [slice(None), 0, 3])
def test_logits_that_are_not_finite_are_never_correct(value, where):
    logits = np.eye(10, dtype=np.float32)
    logits[2, where] = value
    scores = Scorer([0] * 10).compute(predictions=logits, references=np.arange(10))
    assert [scores[name] for name in ("top1", "top5", "superclass")] == [0.9] * 3


@pytest.mark.parametrize("num_labels", [2, 10, 100])
def test_cross_entropy_equals_torch(num_labels):
    logits, labels = noise(64, num_labels, seed=0)
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits).double(), torch.tensor(labels)).item()
    assert Scorer().compute(predictions=logits, references=labels)["loss"] == pytest.approx(expected, rel=1e-12)


def test_cross_entropy_of_extreme_logits():
    scores = Scorer().compute(predictions=[[1e30, 0.0], [0.0, -1e4]], references=[0, 1])
    assert scores["loss"] == pytest.approx(5e3)
    assert np.isnan(Scorer().compute(predictions=[[np.nan, 0.0], [1.0, 0.0]], references=[0, 0])["loss"])


@pytest.mark.parametrize("superclass_of, keys", [(None, []), (np.arange(10) // 2, ["superclass"])])
def test_scorer(superclass_of, keys):
    logits, labels = noise(31, 10, seed=3)
    scores = Scorer(superclass_of)(EvalPrediction(predictions=logits, label_ids=labels))
    assert list(scores) == ["loss", "top1", "top5", *keys]
    assert scores["top1"] == np.mean(logits.argmax(1) == labels)
    assert scores["top1"] <= scores["top5"]
    if keys:
        assert scores["superclass"] == np.mean(logits.argmax(1) // 2 == labels // 2)


@pytest.mark.parametrize("num_labels", [2, 5])
def test_no_top_5_of_five_classes_or_fewer(num_labels):
    logits, labels = noise(31, num_labels, seed=3)
    scores = Scorer(np.zeros(num_labels, int))(EvalPrediction(predictions=logits, label_ids=labels))
    assert list(scores) == ["loss", "top1", "superclass"]


def test_no_folder_is_needed(monkeypatch):
    """Not that of evaluate's cache, below a home folder which may not be writable."""
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", "/dev/null/metrics")
    assert Scorer()(EvalPrediction(np.eye(2, dtype=np.float32), np.array([0, 1])))["top1"] == 1
