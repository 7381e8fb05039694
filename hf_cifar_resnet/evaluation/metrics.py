"""Classification metrics over logits: `evaluate.Metric`s that need no network, and all of them for the Trainer."""

import datasets
import evaluate
import numpy as np

from .analysis import negative_log_likelihood


class LogitsMetric(evaluate.Metric):
    """A metric of `predictions`, logits float32 (n, num_labels), and `references`, class numbers (n,)."""

    def __init__(self, **kwargs):
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self):
        features = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=self.__doc__, citation="", inputs_description="", features=datasets.Features(features)
        )


class TopKAccuracy(LogitsMetric):
    """The share of samples whose label is among the k largest logits; of equal logits the lower class counts first."""

    def __init__(self, k=1):
        self.k = k
        super().__init__()

    def _compute(self, predictions, references):
        logits, labels = np.asarray(predictions), np.asarray(references)
        own = np.take_along_axis(logits, labels[:, None], axis=1)
        earlier = np.arange(logits.shape[1]) < labels[:, None]
        rank = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
        # A NaN compares as not greater, so that a broken model would seem perfect.
        correct = (rank < self.k) & np.isfinite(logits).all(axis=1)
        return {f"top{self.k}": float(correct.mean())}


class CrossEntropy(LogitsMetric):
    """The mean over samples of the negative log-likelihood of the label, in float64."""

    def _compute(self, predictions, references):
        return {"loss": negative_log_likelihood(predictions, references)}


class SuperclassAccuracy(LogitsMetric):
    """The share of samples whose largest logit is of the right superclass; `superclass_of` (num_labels,)."""

    def __init__(self, superclass_of):
        self.superclass_of = np.asarray(superclass_of)
        super().__init__()

    def _compute(self, predictions, references):
        logits, labels = np.asarray(predictions), np.asarray(references)
        correct = self.superclass_of[logits.argmax(axis=1)] == self.superclass_of[labels]
        return {"superclass": float((correct & np.isfinite(logits).all(axis=1)).mean())}


def score_names(num_labels, has_superclasses):
    """The names of the scores that a [`Scorer`] computes. With 5 classes or fewer, top-5 would always be 1."""
    return ["loss", "top1", *["top5"] * (num_labels > 5), *["superclass"] * has_superclasses]


class Scorer:
    """
    `compute_metrics` for the Trainer: a dict of the scores in [`score_names`], with accuracies from 0 to 1.

    Args:
        superclass_of (`np.ndarray` of shape `(num_labels,)`, *optional*): adds the superclass accuracy.
    """

    def __init__(self, superclass_of=None):
        self.metrics = {"loss": CrossEntropy(), "top1": TopKAccuracy(1), "top5": TopKAccuracy(5)}
        if superclass_of is not None:
            self.metrics["superclass"] = SuperclassAccuracy(superclass_of)

    def __call__(self, prediction):
        scores = {}
        for name in score_names(prediction.predictions.shape[1], "superclass" in self.metrics):
            scores |= self.metrics[name].compute(predictions=prediction.predictions, references=prediction.label_ids)
        return scores
