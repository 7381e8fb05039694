"""The scores of a model on a set of images."""

ACCURACIES = {"top1": "top-1", "top5": "top-5", "superclass": "superclass"}  # with their printed names
SCORES = ("loss", *ACCURACIES)


def select_scores(metrics, prefix):
    """Select the scores of [`Scorer`] from a Trainer's metrics, without their prefix."""
    return {name: metrics[f"{prefix}_{name}"] for name in SCORES if f"{prefix}_{name}" in metrics}
