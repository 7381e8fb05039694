"""MixUp and CutMix of training batches, on the device."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import one_hot


@dataclass(frozen=True)
class Mixer:
    """
    Mixes each image of a batch with the one before it, and their labels with the same weights.

    Random numbers depend on (seed, step, part, rank) alone, so that a resumed run mixes as an uninterrupted one, and
    are drawn on the host, so that the device need not be waited for.

    Args:
        mixup_alpha: of MixUp's Beta(alpha, alpha) (Zhang et al. 2017, https://arxiv.org/abs/1710.09412);
            0 turns it off.
        cutmix_alpha: of CutMix's (Yun et al. 2019, https://arxiv.org/abs/1905.04899); 0 turns it off.
        probability: share of the batches that are mixed.
        cutmix_share: share of the mixed batches that get CutMix if both are on.
    """

    num_labels: int
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    probability: float = 1.0
    cutmix_share: float = 0.5
    seed: int = 0
    rank: int = 0

    def __call__(
        self, pixel_values: torch.Tensor, labels: torch.Tensor, step: int, part: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return new images, and class probabilities float32 `(batch, num_labels)`, also if the batch is not mixed.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`)
            labels (`torch.LongTensor` of shape `(batch,)`): class numbers.
            step, part: number of the optimizer step, and of the accumulated batch within it.
        """
        rng = np.random.default_rng([self.seed, step, part, self.rank])
        labels = one_hot(labels, self.num_labels).float()
        both = self.mixup_alpha and self.cutmix_alpha
        cutmix_share = self.cutmix_share if both else float(self.cutmix_alpha > 0)
        # Both numbers are always drawn, so that the numbers that follow do not depend on the probabilities.
        mixed, cut = rng.random(2) < (self.probability, cutmix_share)
        if not mixed:
            return pixel_values, labels
        if cut:
            pixel_values, kept = cutmix(pixel_values, rng.beta(self.cutmix_alpha, self.cutmix_alpha), rng)
        else:
            kept = rng.beta(self.mixup_alpha, self.mixup_alpha)
            pixel_values = torch.lerp(pixel_values.roll(1, 0), pixel_values, kept)
        return pixel_values, torch.lerp(labels.roll(1, 0), labels, kept)


def cutmix(pixel_values: torch.Tensor, kept: float, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
    """
    Replace a box of every image by the same box of the image before it.

    The box has the share `1 - kept` of the image's area and a uniform centre, and is clipped at the border. Returns the
    new images and the share of pixels that was really kept.
    """
    height, width = pixel_values.shape[-2:]
    rows, columns = _span(height, kept, rng), _span(width, kept, rng)
    mixed = pixel_values.clone()
    mixed[..., rows, columns] = pixel_values.roll(1, 0)[..., rows, columns]
    return mixed, 1 - mixed[0, 0, rows, columns].numel() / (height * width)


def _span(size: int, kept: float, rng: np.random.Generator) -> slice:
    length, center = int(size * np.sqrt(1 - kept)), int(rng.integers(size))
    return slice(max(0, center - length // 2), min(size, center - length // 2 + length))


def label_share(classes: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Return the weight (batch,) that labels give to predicted classes (batch,): 1 or 0 for class numbers (batch,), a
    probability for class probabilities (batch, num_labels).
    """
    if labels.ndim == 1:
        return classes == labels
    return labels.gather(1, classes[:, None])[:, 0]
