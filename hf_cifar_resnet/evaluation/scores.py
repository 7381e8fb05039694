"""The scores of a model on a split, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

# The accuracies among the scores, as they are printed.
ACCURACY_NAMES = {"top1": "top-1", "top5": "top-5", "superclass": "superclass"}
# An error message, with the name of a model. Finite weights can still overflow.
NOT_FINITE = "the answers of {} are not finite: its weights are too large"


@dataclass(frozen=True)
class Scores:
    """
    The scores of a model on the images of a split.

    Attributes:
        loss: the mean negative log-likelihood of the label, in nats.
        top1, top5: the share of images, 0 to 1, whose label is among the 1 or 5 largest logits. `top5` is None with 5
            classes or fewer, where it would always be 1.
        superclass: the share whose largest logit is of the right superclass; None for data without superclasses.
    """

    loss: float
    top1: float
    top5: float | None = None
    superclass: float | None = None

    @classmethod
    def from_dict(cls, given: Mapping[str, float]) -> Scores:
        """Take the scores out of a dict that may hold more. Raises `ValueError` if loss or top1 is missing."""
        if missing := [name for name in ("loss", "top1") if given.get(name) is None]:
            raise ValueError(f"the scores lack {missing[0]}")
        return cls(given["loss"], given["top1"], given.get("top5"), given.get("superclass"))

    def to_dict(self) -> dict[str, float]:
        """Return the scores that there are, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def score_names(num_labels: int, has_superclasses: bool) -> list[str]:
    """Return the names of the scores of a model with so many classes."""
    names = ["loss", "top1"]
    if num_labels > 5:
        names.append("top5")
    if has_superclasses:
        names.append("superclass")
    return names
