"""Datasets of images in a uint8 array, which are fetched, augmented and normalised a batch at a time."""

import copy
import hashlib
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset
from transformers import default_data_collator

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


class Batch:
    """
    A batch of an [`ImageDataset`]: its tensors by name, and the sequence of its samples, from which any other collator
    makes a batch too.
    """

    def __init__(self, tensors: dict[str, torch.Tensor]):
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors["labels"])

    @overload
    def __getitem__(self, key: str) -> torch.Tensor: ...

    @overload
    def __getitem__(self, key: int) -> dict[str, torch.Tensor]: ...

    def __getitem__(self, key: str | int) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return the tensor of a name, or the sample of a number."""
        if isinstance(key, str):
            return self.tensors[key]
        return {name: tensor[key] for name, tensor in self.tensors.items()}

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return (self[number] for number in range(len(self)))

    def __or__(self, other: Mapping[str, torch.Tensor]) -> "Batch":
        return Batch({**self.tensors, **other})


class ImageDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """
    Labelled images, fetched one at a time or a batch at a time.

    Where there is an augmenter, an image is augmented anew each time that it is fetched, with numbers from torch's
    generator. In a copy made by [`at_epoch`] they depend on the epoch and the image alone.

    Args:
        images (`np.ndarray`): uint8 (n, height, width, 3), in memory or memory-mapped.
        labels (`np.ndarray`): class numbers (n,).
        mean, std (lists of three floats): of the channels, on the scale 0 to 1.
        augmenter ([`Augmenter`], *optional*): applied to every image that is fetched.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | torch.Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        augmenter: "Augmenter | None" = None,
    ):
        self.images: np.ndarray = images
        self.labels: torch.Tensor = torch.as_tensor(labels, dtype=torch.int64)
        self.mean: Sequence[float] = mean
        self.std: Sequence[float] = std
        self.augmenter = augmenter
        self.normalizes = True
        self.epoch: int | torch.Tensor | None = None
        self._digest: str | None = None

    def with_labels(self, labels: np.ndarray) -> "ImageDataset":
        """Return a copy with other class numbers (n,)."""
        dataset = copy.copy(self)
        dataset.labels = torch.as_tensor(labels, dtype=torch.int64)
        dataset._digest = None
        return dataset

    def without_normalization(self) -> "ImageDataset":
        """Return a copy whose `pixel_values` are uint8 (batch, height, width, 3), to be normalised on the device."""
        dataset = copy.copy(self)
        dataset.normalizes = False
        return dataset

    def at_epoch(self, epoch: int | torch.Tensor) -> "ImageDataset":
        """
        Return a copy that augments its images as in this epoch. The number may also be a tensor int64 () whose value
        changes; in shared memory, workers that persist see the change.
        """
        dataset = copy.copy(self)
        dataset.epoch = epoch
        return dataset

    def digest(self) -> str:
        """Return the SHA-256 of all images and labels, which is computed once."""
        if self._digest is None:
            content = hashlib.sha256(np.ascontiguousarray(self.images).data)
            content.update(self.labels.numpy().data)
            self._digest = content.hexdigest()
        return self._digest

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a [`Batch`]: `pixel_values` float32 (batch, 3, height, width) and `labels` int64 (batch,)."""
        numbers = np.asarray(indices)
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        images = np.asarray(self.images[numbers])
        if self.augmenter is not None:
            if self.epoch is None:
                epochs = torch.randint(2**31, numbers.shape).tolist()
            else:
                epochs = [int(self.epoch)] * len(numbers)
            for i, (epoch, index) in enumerate(zip(epochs, numbers.tolist(), strict=True)):
                images[i] = self.augmenter(images[i], epoch, index)
        pixels = normalize(images, self.mean, self.std) if self.normalizes else torch.from_numpy(images)
        return Batch({"pixel_values": pixels, "labels": self.labels[numbers]})

    def __getstate__(self) -> dict[str, Any]:
        # A memory-mapped array is pickled as its path, for worker processes that are spawned.
        state = self.__dict__.copy()
        if isinstance(self.images, np.memmap) and isinstance(self.images.base, mmap.mmap) and self.images.filename:
            state["images"] = Path(self.images.filename)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.images, Path):
            self.images = np.load(self.images, mmap_mode="r")


def collate(samples: Batch | Sequence[Mapping[str, Any]] | Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Return the tensors of a [`Batch`], or those that other samples make: dicts of numbers and arrays, where `label` is
    another name for `labels`. What is neither, such as an image or a text, is left out.
    """
    if isinstance(samples, Batch):
        return samples.tensors
    if isinstance(samples, Mapping):
        return dict(samples)
    numeric = (int, float, np.number, np.ndarray, torch.Tensor)
    return default_data_collator(
        [{name: value for name, value in sample.items() if isinstance(value, numeric)} for sample in samples]
    )


def map_images(
    dataset: torch.utils.data.Dataset[Any], change: Callable[[ImageDataset], ImageDataset]
) -> torch.utils.data.Dataset[Any]:
    """Return a dataset whose [`ImageDataset`]s are changed: itself, or those in a `Subset` or `ConcatDataset`."""
    if isinstance(dataset, ImageDataset):
        return change(dataset)
    if type(dataset) is Subset:
        return Subset(map_images(dataset.dataset, change), dataset.indices)
    if type(dataset) is ConcatDataset:
        return ConcatDataset([map_images(part, change) for part in dataset.datasets])
    return dataset


def find_normalization(dataset: torch.utils.data.Dataset[Any]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and deviation with which all images are normalised by [`ImageDataset`]s, or None."""
    if isinstance(dataset, ImageDataset):
        return (tuple(dataset.mean), tuple(dataset.std)) if dataset.normalizes else None
    if type(dataset) is Subset:
        return find_normalization(dataset.dataset)
    if type(dataset) is ConcatDataset:
        found = {find_normalization(part) for part in dataset.datasets}
        return found.pop() if len(found) == 1 else None
    return None


class EpochSampler(torch.utils.data.Sampler[int]):
    """
    A sampler of indices, whose order depends on (seed, epoch).

    Its `epoch`, a tensor int64 (), is there to be shared with [`ImageDataset.at_epoch`].
    """

    def __init__(self, num_samples: int, seed: int = 0):
        self.num_samples: int = num_samples
        self.seed: int = seed
        self.epoch: torch.Tensor = torch.zeros((), dtype=torch.int64)

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.num_samples

    def order(self, epoch: int) -> np.ndarray:
        """Return the indices (n,) in the order of an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)

    def __iter__(self) -> Iterator[int]:
        yield from self.order(int(self.epoch)).tolist()
