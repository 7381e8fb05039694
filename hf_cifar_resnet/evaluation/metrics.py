"""The scores of logits, and the same as an `evaluate.Metric` that needs no network."""

from __future__ import annotations

import tempfile
from typing import Any

import datasets
import evaluate
import numpy as np
from transformers import EvalPrediction

from .analysis import negative_log_likelihood
from .scores import Scores


def compute_scores(logits: np.ndarray, labels: np.ndarray, superclass_of: np.ndarray | None = None) -> Scores:
    """
    Compute the scores of logits float32 (n, num_labels) for labels (n,).

    Of equal logits the lower class counts first, and logits that are not finite are wrong. The loss is computed in
    float64.

    Args:
        superclass_of (`np.ndarray` of shape `(num_labels,)`, *optional*): the superclass of each class number.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    # A NaN compares as not greater, so that a broken model would seem perfect.
    finite = np.isfinite(logits).all(axis=1)

    def share(correct: np.ndarray) -> float:
        return float((correct & finite).mean())

    superclass = None
    if superclass_of is not None:
        groups = np.asarray(superclass_of)
        superclass = share(groups[logits.argmax(axis=1)] == groups[labels])
    return Scores(
        loss=negative_log_likelihood(logits, labels),
        top1=share(rank < 1),
        top5=share(rank < 5) if logits.shape[1] > 5 else None,
        superclass=superclass,
    )


class Scorer(evaluate.Metric):
    """
    A metric of `predictions`, logits float32 (n, num_labels), and `references`, class numbers (n,), which is also a
    `compute_metrics` for the Trainer. It computes the scores of [`compute_scores`] as a dict.

    Args:
        superclass_of (`np.ndarray` of shape `(num_labels,)`, *optional*): the superclass of each class number.
    """

    def __init__(self, superclass_of: np.ndarray | None = None):
        self.superclass_of = superclass_of
        # It makes a folder in its cache, though nothing is ever written there, and the user's may not be writable.
        with tempfile.TemporaryDirectory() as cache:
            super().__init__(keep_in_memory=True, cache_dir=cache)

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        return self._compute(prediction.predictions, prediction.label_ids)

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=self.__doc__ or "", citation="", inputs_description="", features=datasets.Features(features)
        )

    def _compute(self, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, float]:
        return compute_scores(predictions, references, self.superclass_of).to_dict()
