"""All metrics of a model's logits over a split."""

from .metrics import CrossEntropy, SuperclassAccuracy, TopKAccuracy


class Scorer:
    """
    `compute_metrics` for the Trainer: exact over the whole split, however it was cut into batches and processes.

    Args:
        superclass_of (`np.ndarray` of shape `(num_labels,)`, *optional*): adds the superclass accuracy.

    Returns:
        On a call, a dict with `loss`, `top1`, `top5` and, with superclasses, `superclass`; accuracies are 0 to 1.
    """

    def __init__(self, superclass_of=None):
        self.metrics = [CrossEntropy(), TopKAccuracy(1), TopKAccuracy(5)]
        if superclass_of is not None:
            self.metrics.append(SuperclassAccuracy(superclass_of))

    def __call__(self, prediction):
        scores = {}
        for metric in self.metrics:
            scores |= metric.compute(predictions=prediction.predictions, references=prediction.label_ids)
        return scores
