"""What a model gets wrong and how sure it is: numbers from the logits of a split, without pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax, softmax

NUM_BINS = 15
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


class ConfusedPair(TypedDict):
    """Two classes that are mistaken for each other: their names, how often, and for what share of their images."""

    classes: list[str]
    count: int
    share: float


@dataclass(frozen=True)
class Reliability:
    """
    Confidence and accuracy in bins of the largest probability.

    Attributes:
        count, confidence, accuracy: of each bin, (num_bins,), with means of 0 in empty bins.
        ece: the expected calibration error, 0 to 1.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


@dataclass(frozen=True)
class McNemar:
    """How many images two models get right, and the p-value of the hypothesis that they are equally good."""

    both: int
    only_first: int
    only_second: int
    neither: int
    p: float


def probabilities(logits: ArrayLike, temperature: float = 1.0) -> np.ndarray:
    """Softmax in float64 of logits (n, num_labels) divided by a temperature."""
    return softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)


def log_mean_probabilities(logits: Sequence[np.ndarray]) -> np.ndarray:
    """
    The log of the mean probabilities that several logits (n, num_labels) give for the same images, such as those of
    several models, or of an image and its mirror image: (n, num_labels), logits again.
    """
    return np.log(np.maximum(np.mean([probabilities(each) for each in logits], axis=0), np.finfo(np.float64).tiny))


def confusion_matrix(predicted: ArrayLike, labels: ArrayLike, num_classes: int) -> np.ndarray:
    """Counts (num_classes, num_classes), with labels as rows and predictions as columns."""
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(matrix, (np.asarray(labels), np.asarray(predicted)), 1)
    return matrix


def class_accuracy(matrix: np.ndarray) -> np.ndarray:
    """The accuracy of each class, (num_classes,); NaN for a class without images."""
    counts = matrix.sum(axis=1)
    return np.where(counts > 0, np.diag(matrix) / np.maximum(counts, 1), np.nan)


def most_confused(logits: ArrayLike, labels: ArrayLike, names: Sequence[str], k: int = 10) -> list[ConfusedPair]:
    """
    Return the at most k pairs of classes that are most often mistaken for each other, most confused first, with the
    number of mistakes and their share of the images of both classes, 0 to 1. Logits are (n, num_labels), labels (n,).
    """
    matrix = confusion_matrix(np.asarray(logits).argmax(axis=1), labels, len(names))
    both_ways = np.triu(matrix + matrix.T, 1)
    images = matrix.sum(axis=1)
    order = np.argsort(-both_ways, axis=None, kind="stable")[:k]
    pairs = [(*divmod(int(flat), len(names)), int(both_ways.flat[flat])) for flat in order]
    return [
        {"classes": [names[a], names[b]], "count": count, "share": float(count / (images[a] + images[b]))}
        for a, b, count in pairs
        if count > 0
    ]


def reliability(probs: np.ndarray, labels: ArrayLike, num_bins: int = NUM_BINS) -> Reliability:
    """
    Return confidence and accuracy in bins of the largest of the probabilities (n, num_labels), and the expected
    calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599, equation 3).
    """
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == np.asarray(labels)
    # As in the paper, a bin includes its upper edge: (0, 1/15], (1/15, 2/15], ...
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    filled = np.maximum(count, 1)
    mean_confidence = np.bincount(bins, confidence, num_bins) / filled
    accuracy = np.bincount(bins, correct, num_bins) / filled
    ece = float((count * np.abs(accuracy - mean_confidence)).sum() / len(confidence))
    return Reliability(count, mean_confidence, accuracy, ece)


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0) -> float:
    """The mean of minus the log probability of `labels` (n,), given `logits` (n, num_labels), at a temperature."""
    log_probs = log_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)
    return float(-np.take_along_axis(log_probs, np.asarray(labels)[:, None], axis=1).mean())


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """
    Fit the temperature with the lowest negative log-likelihood, from 0.05 to 20 (Guo et al. 2017, section 4.2), on
    logits (n, num_labels) and labels (n,) of images that the model is neither trained nor tested on (validation).
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_temperature: negative_log_likelihood(logits, labels, np.exp(log_temperature)),
        bounds=(np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)),
        method="bounded",
    )
    return float(np.exp(found.x))


def confident_mistakes(probs: np.ndarray, labels: ArrayLike, k: int) -> np.ndarray:
    """Indices of the at most k wrongly classified images with the largest probability, most confident first."""
    confidence, wrong = probs.max(axis=1), probs.argmax(axis=1) != np.asarray(labels)
    order = np.argsort(-confidence, kind="stable")
    return order[wrong[order]][:k]


def mcnemar(correct: ArrayLike, other_correct: ArrayLike) -> McNemar:
    """
    Make the exact two-sided McNemar test (McNemar 1947) of whether two models differ, given which images (n,) each got
    right.
    """
    from scipy.stats import binomtest

    matrix = confusion_matrix(np.asarray(other_correct, dtype=int), np.asarray(correct, dtype=int), 2)
    (neither, second), (first, both) = matrix.tolist()
    p = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    return McNemar(both, first, second, neither, p)
