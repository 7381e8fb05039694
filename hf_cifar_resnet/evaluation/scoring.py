"""All metrics of a model's logits over a split."""

from .metrics import CrossEntropy, SuperclassAccuracy, TopKAccuracy


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
