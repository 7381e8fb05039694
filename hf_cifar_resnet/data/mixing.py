"""MixUp and CutMix: whole batches mixed on the device, in training only."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import one_hot


@dataclass(frozen=True)
class Mixer:
    """
    Mixes each image of a batch with the one before it, and their labels with the same weights.

    What is drawn (whether, how and how strongly) depends on (seed, step, part, rank) alone, and takes no number from
    the device: nothing waits, and a resumed run mixes as the whole one did. Batches are shuffled, so the neighbour is
    a random other image.

    Args:
        num_labels (`int`).
        mixup_alpha (`float`): of MixUp's Beta(alpha, alpha) (Zhang et al. 2017, https://arxiv.org/abs/1710.09412);
            0 is no MixUp.
        cutmix_alpha (`float`): of CutMix's (Yun et al. 2019, https://arxiv.org/abs/1905.04899); 0 is no CutMix.
        probability (`float`): share of the batches that are mixed.
        cutmix_share (`float`): where both are on, the share of the mixed batches that get CutMix.
        seed, rank (`int`): of the run, and of the process within it.
    """

    num_labels: int
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    probability: float = 1.0
    cutmix_share: float = 0.5
    seed: int = 0
    rank: int = 0

    def __call__(self, pixel_values, labels, step, part=0):
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`): left as it is.
            labels (`torch.LongTensor` of shape `(batch,)`): class numbers.
            step (`int`): optimizer steps taken so far.
            part (`int`): which of the batches accumulated within the step.

        Returns:
            The mixed images, and class probabilities float32 `(batch, num_labels)`, also for a batch that is left
            unmixed.
        """
        rng = np.random.default_rng([self.seed, step, part, self.rank])
        labels = one_hot(labels, self.num_labels).float()
        # Drawn before it is known whether they are needed, so that each decision has its own place in the stream.
        mixed, cut = rng.random(2) < (self.probability, self._share_of_cutmix())
        if not mixed:
            return pixel_values, labels
        if cut:
            pixel_values, kept = cutmix(pixel_values, rng.beta(self.cutmix_alpha, self.cutmix_alpha), rng)
        else:
            kept = rng.beta(self.mixup_alpha, self.mixup_alpha)
            pixel_values = torch.lerp(pixel_values.roll(1, 0), pixel_values, kept)
        return pixel_values, torch.lerp(labels.roll(1, 0), labels, kept)

    def _share_of_cutmix(self):
        if self.mixup_alpha and self.cutmix_alpha:
            return self.cutmix_share
        return float(self.cutmix_alpha > 0)


def cutmix(pixel_values, kept, rng):
    """
    Replaces a box of every image by the same box of the image before it.

    The box has the share `1 - kept` of the image's area and a uniform centre; what lies outside the image is cut off.

    Returns:
        The new images, and the share of their own pixels that they really kept.
    """
    height, width = pixel_values.shape[-2:]
    rows, columns = _span(height, kept, rng), _span(width, kept, rng)
    mixed = pixel_values.clone()
    mixed[..., rows, columns] = pixel_values.roll(1, 0)[..., rows, columns]
    replaced = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1 - replaced / (height * width)


def _span(size, kept, rng):
    length, centre = int(size * np.sqrt(1 - kept)), int(rng.integers(size))
    return slice(max(0, centre - length // 2), min(size, centre - length // 2 + length))


def weight_of(classes, labels):
    """
    How right the predicted `classes` (batch,) are: 1 or 0 for class numbers `labels` (batch,); for class probabilities
    (batch, num_labels) the probability of the predicted class.
    """
    if labels.ndim == 1:
        return classes == labels
    return labels.gather(1, classes[:, None])[:, 0]
