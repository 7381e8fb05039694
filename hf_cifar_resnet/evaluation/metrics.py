"""The scores of a model, as an `evaluate.Metric` that needs no network."""

import tempfile

import datasets
import evaluate
import numpy as np

from .analysis import negative_log_likelihood


def score_names(num_labels, has_superclasses):
    """The names of the scores that a [`Scorer`] computes. With 5 classes or fewer, top-5 would always be 1."""
    return ["loss", "top1", *["top5"] * (num_labels > 5), *["superclass"] * has_superclasses]


class Scorer(evaluate.Metric):
    """
    A metric of `predictions`, logits float32 (n, num_labels), and `references`, class numbers (n,), which is also a
    `compute_metrics` for the Trainer. It computes a dict of the scores in [`score_names`]:

    - `loss`: the mean negative log-likelihood of the label, in float64.
    - `top1`, `top5`: the share of samples, 0 to 1, whose label is among the 1 or 5 largest logits; of equal logits the
      lower class counts first, and logits that are not finite are wrong.
    - `superclass`: the share whose largest logit is of the right superclass.

    Args:
        superclass_of (`np.ndarray` of shape `(num_labels,)`, *optional*): the superclass of each class number.
    """

    def __init__(self, superclass_of=None):
        self.superclass_of = superclass_of
        # It makes a folder in its cache, though nothing is ever written there, and the user's may not be writable.
        with tempfile.TemporaryDirectory() as cache:
            super().__init__(keep_in_memory=True, cache_dir=cache)

    def __call__(self, prediction):
        return self.compute(predictions=prediction.predictions, references=prediction.label_ids)

    def _info(self):
        features = {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description=self.__doc__, citation="", inputs_description="", features=datasets.Features(features)
        )

    def _compute(self, predictions, references):
        logits, labels = np.asarray(predictions), np.asarray(references)
        own = np.take_along_axis(logits, labels[:, None], axis=1)
        earlier = np.arange(logits.shape[1]) < labels[:, None]
        rank = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
        correct = {"top1": rank < 1, "top5": rank < 5}
        if self.superclass_of is not None:
            groups = np.asarray(self.superclass_of)
            correct["superclass"] = groups[logits.argmax(axis=1)] == groups[labels]
        # A NaN compares as not greater, so that a broken model would seem perfect.
        finite = np.isfinite(logits).all(axis=1)
        scores = {name: float((values & finite).mean()) for name, values in correct.items()}
        scores["loss"] = negative_log_likelihood(logits, labels)
        return {name: scores[name] for name in score_names(logits.shape[1], self.superclass_of is not None)}
