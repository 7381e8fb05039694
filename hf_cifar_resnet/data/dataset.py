"""Datasets of images that are decoded once to a uint8 array, and fetched and normalised a batch at a time."""

import contextlib
import copy
import errno
import hashlib
import io
import math
import mmap
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload
from uuid import uuid4

import numpy as np
import psutil
import torch
from PIL import ExifTags, Image, ImageOps
from torch.utils.data import ConcatDataset, Subset
from transformers import default_data_collator

from ..choices import IMAGE_SIZE
from ..errors import UserError, one_line
from .augment import Augmenter

STALE_SECONDS = 3600  # after which a file that is being written is taken for one that a killed process left
# PIL warns above MAX_IMAGE_PIXELS, and `read_rgb_array` refuses such an image.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def to_rgb_array(image, size=IMAGE_SIZE, mode=None):
    """
    Return a PIL image of any mode and size as uint8 (size, size, 3): upright, RGB on white, resized with antialiasing;
    converted to `mode` before, if one is given.

    The image processor that is saved with a model gives the same pixels, up to one grey level if it resizes.

    Raises:
        ValueError: if the pixels are not grey levels from 0 to 255.
    """
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        levels = np.asarray(image)
        if not ((levels >= 0) & (levels <= 255)).all():  # also true if one is NaN
            raise ValueError("its pixels are not all grey levels from 0 to 255: scale it to 8 bits")
        if levels.max() <= 1 and (levels % 1).any():  # which would give an image that is almost black
            raise ValueError("its pixels are fractions from 0 to 1, not grey levels from 0 to 255: scale it to 8 bits")
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # otherwise transposing would copy
        image = ImageOps.exif_transpose(image)
    if mode is not None and image.mode != mode:
        image = image.convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


@lru_cache
def _image_endings():
    return tuple(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def is_image_name(path):
    """Return whether a file's name ends as that of an image that PIL reads."""
    return path.lower().endswith(_image_endings())


def is_hidden_name(name):
    """Return whether a file or folder of this name is none of the user's, but what a system has left there."""
    return name.startswith(".") or name.lower() in ("__macosx", "__pycache__", "thumbs.db", "desktop.ini")


def read_rgb_array(source, size=IMAGE_SIZE, mode=None):
    """
    Read an image file, a path or a stream, as [`to_rgb_array`] returns it.

    Raises:
        ValueError: for more than `PIL.Image.MAX_IMAGE_PIXELS` (89 million), before decoding; for a pipe or device, and
            for EPS. PIL's decoders raise other exceptions too.
    """
    if isinstance(source, (str, os.PathLike)) and os.path.exists(source) and not os.path.isfile(source):
        raise ValueError("not a regular file")
    with Image.open(source) as image:
        if image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{image.width:,} x {image.height:,} pixels are too many")
        if image.format == "EPS":
            raise ValueError("it is a program, which Ghostscript would have to run")
        return to_rgb_array(image, size, mode)


def decode_images(dataset, size=IMAGE_SIZE, column=None):
    """
    Return all images of a `datasets.Dataset` as one uint8 array (n, size, size, 3).

    The array is written to the `datasets` cache, an image at a time, and memory-mapped, so that a dataset on disk is
    decoded once per machine and may be larger than the memory. It is in memory if the cache cannot be written.

    Args:
        dataset: with the columns image and row (the number of the image in its split).
        column (`str`, *optional*): the original name of the image column, if it was given.

    Raises:
        UserError: naming the image that cannot be decoded, or what does not fit.
    """
    from datasets import config

    shape = (len(dataset), size, size, 3)
    reason = "the dataset is not on disk"
    if dataset.cache_files:
        files = [Path(file["filename"]) for file in dataset.cache_files]
        source = [(str(file), file.stat().st_size, file.stat().st_mtime_ns, file.stat().st_ctime_ns) for file in files]
        digest = hashlib.sha256(repr((source, column, dataset.features["image"].mode)).encode())
        digest.update(np.asarray(dataset["row"][:]).tobytes())
        path = Path(config.HF_DATASETS_CACHE, "hf_cifar_resnet", f"v4-{digest.hexdigest()}-{size}.npy")
        with contextlib.suppress(OSError, ValueError, EOFError):  # it is absent or damaged
            images = np.load(path, mmap_mode="r")
            if images.shape == shape:
                return images
        try:
            _write_images(_decoded(dataset, size), shape, path)
            return np.load(path, mmap_mode="r")
        except OSError as error:
            reason = f"{path.parent}: {error.strerror or one_line(error)}"
    images = _empty(shape, f"the images of split {dataset.split}", reason)
    for i, image in enumerate(_decoded(dataset, size)):
        images[i] = image
    return images


def _write_images(images: Iterable[np.ndarray], shape: tuple[int, ...], path: Path):
    """Write uint8 images as one array of this shape to a file of numpy's. Raises `OSError`, and leaves nothing then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for partial in path.parent.glob("*.partial"):  # a process that lives writes to its own all the time
        with contextlib.suppress(FileNotFoundError):
            if partial.stat().st_mtime < time.time() - STALE_SECONDS:
                partial.unlink()
    if math.prod(shape) > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    partial = path.with_name(f"{uuid4().hex}.partial")
    try:
        # Written, not mapped: on a full disk a write raises an error, where a mapped page would kill the process.
        with open(partial, "xb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for image in images:
                file.write(image.tobytes())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _empty(shape: tuple[int, ...], what: str, reason: str) -> np.ndarray:
    """Return an uninitialised uint8 array. Raises [`UserError`] if the memory cannot hold it."""
    needed, free = math.prod(shape), psutil.virtual_memory().available
    with contextlib.suppress(MemoryError):
        if needed <= free:
            return np.empty(shape, dtype=np.uint8)
    raise UserError(
        f"{what} need {needed / 1e9:,.2f} GB at {shape[1]} x {shape[2]} pixels, but fit neither into the memory "
        f"({free / 1e9:,.2f} GB) nor into the cache ({reason}): choose a smaller --image_size or fewer images, or set "
        "HF_DATASETS_CACHE to a folder with more space"
    )


def _decoded(dataset, size: int) -> Iterator[np.ndarray]:
    """Yield the images of a dataset one after another, uint8 (size, size, 3). Raises [`UserError`], naming one."""
    from datasets import Image as ImageFeature

    mode = dataset.features["image"].mode
    for row in dataset.cast_column("image", ImageFeature(decode=False)):
        source = row["image"]
        try:
            stream = io.BytesIO(source["bytes"]) if source["bytes"] is not None else source["path"]
            image = read_rgb_array(stream, size, mode)
        except Exception as error:  # PIL's decoders raise errors of any type
            file = f" ({source['path']})" if source and source["path"] else ""
            # Python's message for a missing image and PIL's for an unknown format do not help a user.
            unknown = isinstance(error, (TypeError, Image.UnidentifiedImageError))
            reason = "not an image" if unknown else one_line(error)
            raise UserError(
                f"image {row['row']} of split {dataset.split}{file} cannot be decoded: {reason}. Remove or replace it."
            ) from error
        yield image


def channel_statistics(images):
    """Return the mean and standard deviation of each channel, on the scale 0 to 1, as two lists of three."""
    pixels = images.reshape(-1, 3)
    mean = pixels.sum(axis=0, dtype=np.float64) / len(pixels)
    squares = np.einsum("ni,ni->i", pixels, pixels, dtype=np.float64) / len(pixels)
    deviation = np.sqrt(np.maximum(squares - mean**2, 0))
    # Images of a single colour have the deviation 0, by which nothing can be divided.
    return (mean / 255).tolist(), (np.maximum(deviation, 1) / 255).tolist()


def normalize(images, mean, std):
    """
    Return uint8 images (batch, height, width, 3), an array or a tensor, as normalised float32 `pixel_values`
    (batch, 3, height, width) in memory format channels_last, bit-equal to transformers' image processors.
    """
    images = torch.as_tensor(images)
    batch, height, width, channels = images.shape
    mean, std = _rows(tuple(mean), tuple(std), width, images.device)
    rows = images.reshape(batch * height, width * channels).to(torch.float32)
    return rows.sub_(mean).div_(std).view(images.shape).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _rows(mean, std, width, device):
    """Return mean and deviation of each value in a row of pixels."""
    # Broadcasting over three channels would take eight times as long, and a copy at every batch would stall a GPU.
    return [torch.tensor(values).mul(255.0).repeat(width).to(device) for values in (mean, std)]


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

    def __getitem__(self, key):
        """Return the tensor of a name, or the sample of a number."""
        if isinstance(key, str):
            return self.tensors[key]
        return {name: tensor[key] for name, tensor in self.tensors.items()}

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return (self[number] for number in range(len(self)))

    def __or__(self, other: Mapping[str, torch.Tensor]) -> "Batch":
        return Batch({**self.tensors, **other})


class ImageDataset(torch.utils.data.Dataset):
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
        augmenter: Augmenter | None = None,
    ):
        self.images = images
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.mean, self.std = mean, std
        self.augmenter = augmenter
        self.normalizes = True
        self.epoch: int | torch.Tensor | None = None
        self._digest: str | None = None

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
            content = hashlib.sha256(np.ascontiguousarray(self.images))
            content.update(self.labels.numpy())
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

    def __getstate__(self):
        # A memory-mapped array is pickled as its path, for worker processes that are spawned.
        state = self.__dict__.copy()
        if isinstance(self.images, np.memmap) and isinstance(self.images.base, mmap.mmap):
            state["images"] = Path(self.images.filename)
        return state

    def __setstate__(self, state):
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
    dataset: torch.utils.data.Dataset, change: Callable[[ImageDataset], ImageDataset]
) -> torch.utils.data.Dataset:
    """Return a dataset whose [`ImageDataset`]s are changed: itself, or those in a `Subset` or `ConcatDataset`."""
    if isinstance(dataset, ImageDataset):
        return change(dataset)
    if type(dataset) is Subset:
        return Subset(map_images(dataset.dataset, change), dataset.indices)
    if type(dataset) is ConcatDataset:
        return ConcatDataset([map_images(part, change) for part in dataset.datasets])
    return dataset


def find_normalization(dataset: torch.utils.data.Dataset) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
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
        self.num_samples, self.seed, self.epoch = num_samples, seed, torch.zeros((), dtype=torch.int64)

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.num_samples

    def order(self, epoch: int) -> np.ndarray:
        """Return the indices (n,) in the order of an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)

    def __iter__(self) -> Iterator[int]:
        yield from self.order(int(self.epoch)).tolist()
