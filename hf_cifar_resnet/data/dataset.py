"""Datasets of images in a uint8 array, which are fetched, augmented and normalised a batch at a time."""

import copy
import hashlib
import mmap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from .policies import Augmenter


def channel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """
    Return the mean and standard deviation of each channel of uint8 images (n, height, width, 3), on the scale 0 to 1.
    """
    pixels = images.reshape(-1, 3)
    mean = pixels.sum(axis=0, dtype=np.float64) / len(pixels)
    squares = np.einsum("ni,ni->i", pixels, pixels, dtype=np.float64) / len(pixels)
    deviation = np.sqrt(np.maximum(squares - mean**2, 0))
    # Images of a single colour have the deviation 0, by which nothing can be divided.
    return (mean / 255).tolist(), (np.maximum(deviation, 1) / 255).tolist()


def normalize(images: np.ndarray | torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """
    Return uint8 images (batch, height, width, 3) as normalised float32 `pixel_values` (batch, 3, height, width) in
    memory format channels_last, bit-equal to transformers' image processors.
    """
    pixels = torch.as_tensor(images)
    batch, height, width, channels = pixels.shape
    row_mean, row_std = _repeat_over_row(tuple(mean), tuple(std), width, pixels.device)
    rows = pixels.reshape(batch * height, width * channels).to(torch.float32)
    return rows.sub_(row_mean).div_(row_std).view(pixels.shape).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _repeat_over_row(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation of each value in a row of pixels."""
    # Broadcasting over three channels would take eight times as long, and a copy at every batch would stall a GPU.
    row_mean, row_std = (torch.tensor(values).mul(255.0).repeat(width).to(device) for values in (mean, std))
    return row_mean, row_std


class ImageDataset(torch.utils.data.Dataset):
    """
    Labelled images as batches for the model.

    A position is `epoch * len(self) + index`, so that worker processes know the epoch, on which augmentation depends
    (see [`EpochSampler`]).

    Args:
        images (`np.ndarray`): uint8 (n, height, width, 3), in memory or memory-mapped.
        labels (`np.ndarray`): class numbers (n,).
        mean, std (lists of three floats): of the channels, on the scale 0 to 1.
        augmenter ([`Augmenter`], *optional*): applied to every image that is fetched.
    """

    def __init__(self, images, labels, mean, std, augmenter: "Augmenter | None" = None):
        self.images = images
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.mean, self.std = mean, std
        self.augmenter = augmenter
        self.normalizes = True
        self._digest = None

    def without_normalization(self):
        """Return a copy whose `pixel_values` are uint8 (batch, height, width, 3), to be normalised on the device."""
        dataset = copy.copy(self)
        dataset.normalizes = False
        return dataset

    def digest(self):
        """Return the SHA-256 of all images and labels, which is computed once."""
        if self._digest is None:
            content = hashlib.sha256(np.ascontiguousarray(self.images).data)
            content.update(self.labels.numpy().data)
            self._digest = content.hexdigest()
        return self._digest

    def __len__(self):
        return len(self.images)

    def __getitem__(self, position):
        batch = self.__getitems__([position])
        return {name: values[0] for name, values in batch.items()}

    def __getitems__(self, positions):
        """Return a batch: `pixel_values` float32 (batch, 3, height, width) and `labels` int64 (batch,)."""
        epochs, indices = np.divmod(np.asarray(positions), len(self))
        images = np.asarray(self.images[indices])
        if self.augmenter is not None:
            for i, (epoch, index) in enumerate(zip(epochs.tolist(), indices.tolist(), strict=True)):
                images[i] = self.augmenter(images[i], epoch, index)
        pixels = normalize(images, self.mean, self.std) if self.normalizes else torch.from_numpy(images)
        return {"pixel_values": pixels, "labels": self.labels[indices]}

    def __getstate__(self):
        # A memory-mapped array is pickled as its path, for worker processes that are spawned.
        state = self.__dict__.copy()
        if isinstance(self.images, np.memmap) and isinstance(self.images.base, mmap.mmap) and self.images.filename:
            state["images"] = Path(self.images.filename)
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        if isinstance(self.images, Path):
            self.images = np.load(self.images, mmap_mode="r")


def collate(batch):
    """Return a batch of an [`ImageDataset`] as it is, and stack a list of samples."""
    return batch if isinstance(batch, dict) else torch.utils.data.default_collate(batch)


class EpochSampler(torch.utils.data.Sampler):
    """
    A sampler of positions for [`ImageDataset`], whose order depends on (seed, epoch).

    Positions contain the epoch because `set_epoch` on a dataset would not reach persistent workers.
    """

    def __init__(self, num_samples, seed=0):
        self.num_samples, self.seed, self.epoch = num_samples, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.num_samples

    def order(self, epoch):
        """Return the indices (n,) in the order of an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)

    def __iter__(self):
        yield from (self.order(self.epoch) + self.epoch * self.num_samples).tolist()
