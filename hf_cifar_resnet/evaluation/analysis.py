"""What a model gets wrong and how sure it is: numbers from the logits of a split, without pictures."""

import numpy as np

NUM_BINS = 15


def probabilities(logits, temperature=1.0):
    """
    Softmax in float64 of logits (n, num_labels) divided by a temperature: (n, num_labels), rows sum to 1.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def log_mean_probabilities(logits):
    """
    The log of the mean of the probabilities that several logits (n, num_labels) of the same images give, such as those
    of several models, or of an image and its mirror image: (n, num_labels), logits again.
    """
    return np.log(np.maximum(np.mean([probabilities(each) for each in logits], axis=0), np.finfo(np.float64).tiny))


def confusion_matrix(predicted, labels, num_classes):
    """Counts (num_classes, num_classes): the row is the label, the column what was predicted; both (n,)."""
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(matrix, (np.asarray(labels), np.asarray(predicted)), 1)
    return matrix


def superclass_confusion(matrix, superclass_of):
    """A confusion matrix between classes summed to one between superclasses; `superclass_of` (num_labels,)."""
    membership = np.eye(int(np.max(superclass_of)) + 1, dtype=np.int64)[np.asarray(superclass_of)]
    return membership.T @ matrix @ membership


def class_accuracy(matrix):
    """The share of each class's images that were recognised, (num_classes,); NaN for a class without images."""
    counts = matrix.sum(axis=1)
    return np.where(counts > 0, np.diag(matrix) / np.maximum(counts, 1), np.nan)


def most_confused(logits, labels, names, k=10):
    """
    The pairs of classes most often taken for each other, in either direction.

    Args:
        logits (`np.ndarray` of shape `(n, num_labels)`).
        labels (`np.ndarray` of shape `(n,)`).
        names (`list[str]`): the name of each class number.
        k (`int`): how many pairs at most; pairs never confused are left out.

    Returns:
        list of dicts, most confused first: `classes` (the two names), `count` (images of either taken for the other)
        and `share` (of the images of both, 0 to 1).
    """
    matrix = confusion_matrix(np.asarray(logits).argmax(axis=1), labels, len(names))
    both_ways = np.triu(matrix + matrix.T, 1)
    images = matrix.sum(axis=1)
    order = np.argsort(-both_ways, axis=None, kind="stable")[:k]
    pairs = [divmod(int(flat), len(names)) for flat in order]
    return [
        {
            "classes": [names[a], names[b]],
            "count": int(both_ways[a, b]),
            "share": float(both_ways[a, b] / (images[a] + images[b])),
        }
        for a, b in pairs
        if both_ways[a, b] > 0
    ]


def reliability(probs, labels, num_bins=NUM_BINS):
    """
    How often the model is right where it says that it is so sure (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    Args:
        probs (`np.ndarray` of shape `(n, num_labels)`).
        labels (`np.ndarray` of shape `(n,)`).
        num_bins (`int`): bins of equal width of the largest probability.

    Returns:
        dict of `count`, `confidence` and `accuracy`, each (num_bins,) with means of 0 in empty bins; and `ece`, the
        mean over images of the distance between the confidence and the accuracy of their bin (equation 3).
    """
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == np.asarray(labels)
    # A bin has its upper edge, as in the paper: (0, 1/15], (1/15, 2/15], ...
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    filled = np.maximum(count, 1)
    mean_confidence = np.bincount(bins, confidence, num_bins) / filled
    accuracy = np.bincount(bins, correct, num_bins) / filled
    return {
        "count": count,
        "confidence": mean_confidence,
        "accuracy": accuracy,
        "ece": float((count * np.abs(accuracy - mean_confidence)).sum() / len(confidence)),
    }


def negative_log_likelihood(logits, labels, temperature=1.0):
    """Mean over images of minus the log probability of the label, at a temperature."""
    from scipy.special import logsumexp

    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(scaled)), np.asarray(labels)]))


def fit_temperature(logits, labels):
    """
    The temperature with the lowest negative log-likelihood, from 0.05 to 20 (Guo et al. 2017, section 4.2).

    Fit it on images that the model was not trained on and that it is not judged by: the validation split.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_temperature: negative_log_likelihood(logits, labels, np.exp(log_temperature)),
        bounds=(np.log(0.05), np.log(20)),
        method="bounded",
    )
    return float(np.exp(found.x))


def confident_mistakes(probs, labels, k):
    """Indices of the at most k wrongly classified images with the largest probability, most confident first."""
    confidence, wrong = probs.max(axis=1), probs.argmax(axis=1) != np.asarray(labels)
    order = np.argsort(-confidence, kind="stable")
    return order[wrong[order]][:k]


def mcnemar(correct, other_correct):
    """
    Whether two models that saw the same images differ: the exact McNemar test (McNemar 1947), two-sided.

    Args:
        correct, other_correct (bool `np.ndarray` of shape `(n,)`): which images each model got right.

    Returns:
        dict of counts `both`, `only_first`, `only_second`, `neither`, and `p`: how probable a difference at least as
        large is, if each image that only one of them gets right were as likely to be the one's as the other's.
    """
    from scipy.stats import binomtest

    correct, other_correct = np.asarray(correct, dtype=bool), np.asarray(other_correct, dtype=bool)
    first, second = int((correct & ~other_correct).sum()), int((~correct & other_correct).sum())
    return {
        "both": int((correct & other_correct).sum()),
        "only_first": first,
        "only_second": second,
        "neither": int((~correct & ~other_correct).sum()),
        "p": float(binomtest(first, first + second).pvalue) if first + second else 1.0,
    }
