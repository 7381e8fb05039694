"""Images decoded once to a uint8 array, fetched and normalised a batch at a time."""

import contextlib
import copy
import hashlib
import io
import math
import mmap
import os
import struct
import threading
import warnings
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps

from ..choices import IMAGE_SIZE
from ..errors import UserError
from .augment import Augmenter

# What is above PIL's limit is refused below, in our own words; twice above it PIL refuses it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
LARGE = 2**24  # pixels
_large = threading.Lock()
_SUM = struct.Struct("<I")  # the CRC-32 at the end of a file of the cache


def to_rgb_array(image, size=IMAGE_SIZE):
    """
    A PIL image of any mode and size as uint8 (size, size, 3): upright, RGB on white, resized with antialiasing
    (bilinear).

    The image processor saved with a model does the same, up to one grey level where it resizes.

    Raises:
        ValueError: for pixels that no grey level stands for; others would be cut off to 0 and 255.
    """
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        _check_grey_levels(image)
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # or it would make a copy
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _check_grey_levels(image):
    levels = np.asarray(image)
    if not ((levels >= 0) & (levels <= 255)).all():  # nor where one is not a number
        raise ValueError("its pixels are not all grey levels from 0 to 255: scale it to 8 bits")
    # They would all be black, or nearly so.
    if image.mode == "F" and levels.max() <= 1 and (levels % 1).any():
        raise ValueError("its pixels are fractions from 0 to 1, not grey levels from 0 to 255: scale it to 8 bits")


def read_rgb_array(source, size=IMAGE_SIZE):
    """
    An image file, a path or a stream, as [`to_rgb_array`] makes it.

    Raises:
        ValueError: for more than `PIL.Image.MAX_IMAGE_PIXELS` (89 million), before anything is decoded; a small file
            may claim any size. For a pipe or device, from which reading may never end, and for EPS. PIL's decoders
            raise other exceptions too.
    """
    if isinstance(source, (str, os.PathLike)) and os.path.exists(source) and not os.path.isfile(source):
        raise ValueError("not a regular file")
    with Image.open(source) as image:
        if image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{image.width:,} x {image.height:,} pixels are too many")
        if image.format == "EPS":
            raise ValueError("it is a program, which Ghostscript would have to run")
        # One large image at a time: each takes up to seven bytes a pixel, and there may be many readers.
        with _large if image.width * image.height > LARGE else contextlib.nullcontext():
            return to_rgb_array(image, size)


def decode(dataset, size=IMAGE_SIZE):
    """
    All images of a `datasets.Dataset` with columns image and row (its number in the split), as one uint8 array
    (n, size, size, 3).

    A dataset on disk is decoded once per machine: the array is kept beside the `datasets` cache under the dataset's
    fingerprint with a checksum, and memory-mapped; without a place to keep it, the array is in memory.

    Raises:
        UserError: naming the image that cannot be decoded.
    """
    if not dataset.cache_files:
        return _decode_all(dataset, size)
    path = _cache_path(dataset, size)
    images = _read_cache(path, (len(dataset), size, size, 3))
    if images is None:
        images = _decode_all(dataset, size)
        images = images if not _write_cache(path, images) else np.load(path, mmap_mode="r")
    return images


def _read_cache(path, shape):
    """The array in a file of the cache; None where there is none, or it is not as it was written."""
    try:
        with open(path, "rb") as file:
            checksum = _checksum(file, path.stat().st_size - _SUM.size)
            if _SUM.unpack(file.read()) != (checksum,):
                return None
        images = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError, struct.error):
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def _write_cache(path, images):
    """Whether it could be written: a cache is no reason to stop."""
    # Written aside and renamed, so that a process that stops or starts meanwhile never sees half a file.
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "w+b") as file:
            np.save(file, images)
            file.seek(0)
            file.write(_SUM.pack(_checksum(file)))
        os.replace(aside, path)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    return True


def _checksum(file, remaining=math.inf):
    """Of so many bytes from here on, or all; a chunk at a time."""
    checksum = 0
    while remaining > 0 and (chunk := file.read(int(min(remaining, 2**20)))):
        checksum, remaining = zlib.crc32(chunk, checksum), remaining - len(chunk)
    return checksum


def _cache_path(dataset, size):
    from datasets import config

    return Path(config.HF_DATASETS_CACHE, "hf_cifar_resnet", f"v2-{dataset._fingerprint}-{size}.npy")


def _decode_all(dataset, size):
    from datasets import Image as ImageFeature

    encoded = dataset.cast_column("image", ImageFeature(decode=False))
    images = np.empty((len(dataset), size, size, 3), dtype=np.uint8)
    for i, row in enumerate(encoded):
        source = row["image"]
        try:
            stream = io.BytesIO(source["bytes"]) if source["bytes"] is not None else source["path"]
            images[i] = read_rgb_array(stream, size)
        except Exception as error:  # PIL's decoders raise whatever a broken file leads them to
            where = f"image {row['row']} of split {dataset.split}"
            if source and source["path"]:
                where += f" ({source['path']})"
            raise UserError(f"{where} cannot be decoded: {_reason(error)}. Remove or replace it.") from error
    return images


def _reason(error):
    # Python's own words for a missing image, and PIL's for an unknown format, tell nobody anything.
    if isinstance(error, (TypeError, Image.UnidentifiedImageError)):
        return "not an image"
    return " ".join(str(error).split()) or type(error).__name__


def channel_statistics(images):
    """Mean and standard deviation of each channel over all pixels, on the scale 0 to 1: two lists of three."""
    count, total, squares = 0, np.zeros(3), np.zeros(3)
    for start in range(0, len(images), 1000):
        chunk = images[start : start + 1000].reshape(-1, 3).astype(np.float64)
        count, total, squares = count + len(chunk), total + chunk.sum(0), squares + (chunk**2).sum(0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # An image set of one colour would divide by zero.
    return (mean / 255).tolist(), (np.maximum(deviation, 1) / 255).tolist()


def normalize(images, mean, std):
    """
    uint8 (batch, height, width, 3), an array or a tensor on any device, to normalised float32 `pixel_values`
    (batch, 3, height, width) in memory format channels_last, bit for bit as transformers' image processors do it.
    """
    images = torch.as_tensor(images)
    batch, height, width, channels = images.shape
    mean, std = _rows(tuple(mean), tuple(std), width, images.device)
    rows = images.reshape(batch * height, width * channels).to(torch.float32)
    return rows.sub_(mean).div_(std).view(images.shape).permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _rows(mean, std, width, device):
    """
    Mean and deviation of each value in a row of pixels. Whole rows at a time, because broadcasting over the three
    channels takes eight times as long; kept, because sending them at every batch would stall a GPU.
    """
    return [torch.tensor(values).mul(255.0).repeat(width).to(device) for values in (mean, std)]


class ImageDataset(torch.utils.data.Dataset):
    """
    Labelled images as batches for the model.

    A position is `epoch * len(self) + index`: with the epoch in it, a sample's augmentation needs nothing that a
    worker process would have to be told (see [`EpochSampler`]).

    Args:
        images (`np.ndarray`): uint8 (n, height, width, 3), in memory or memory-mapped.
        labels (`np.ndarray`): class numbers (n,).
        mean, std (lists of three floats): of the channels, on the scale 0 to 1.
        augmenter ([`Augmenter`], *optional*): applied to every image that is fetched.
    """

    def __init__(self, images, labels, mean, std, augmenter: Augmenter | None = None):
        self.images = images
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.mean, self.std = mean, std
        self.augmenter = augmenter
        self.normalizes = True

    def as_bytes(self):
        """The same dataset, giving `pixel_values` as uint8 (batch, height, width, 3): a quarter of what has to travel
        to a device, where [`normalize`] does the rest."""
        dataset = copy.copy(self)
        dataset.normalizes = False
        return dataset

    def digest(self):
        """The SHA-256 of all images and labels: the same wherever they lie."""
        content = hashlib.sha256(np.ascontiguousarray(self.images))
        content.update(self.labels.numpy())
        return content.hexdigest()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, position):
        batch = self.__getitems__([position])
        return {name: values[0] for name, values in batch.items()}

    def __getitems__(self, positions):
        """The whole batch at once: `pixel_values` float32 (batch, 3, height, width) and `labels` int64 (batch,)."""
        epochs, indices = np.divmod(np.asarray(positions), len(self))
        images = np.asarray(self.images[indices])
        if self.augmenter is not None:
            for i, (epoch, index) in enumerate(zip(epochs.tolist(), indices.tolist(), strict=True)):
                images[i] = self.augmenter(images[i], epoch, index)
        pixels = normalize(images, self.mean, self.std) if self.normalizes else torch.from_numpy(images)
        return {"pixel_values": pixels, "labels": self.labels[indices]}

    def __getstate__(self):
        # A spawned worker gets the path of a memory-mapped file, not its contents.
        state = self.__dict__.copy()
        if isinstance(self.images, np.memmap) and isinstance(self.images.base, mmap.mmap):
            state["images"] = Path(self.images.filename)
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        if isinstance(self.images, Path):
            self.images = np.load(self.images, mmap_mode="r")


def collate(batch):
    """Batches of an [`ImageDataset`] are collated already; single samples are stacked."""
    return batch if isinstance(batch, dict) else torch.utils.data.default_collate(batch)


class EpochSampler(torch.utils.data.Sampler):
    """
    A new order every epoch, drawn from (seed, epoch), as positions for [`ImageDataset`].

    The epoch travels in the position because `set_epoch` on a dataset never reaches persistent workers.
    """

    def __init__(self, num_samples, seed=0):
        self.num_samples, self.seed, self.epoch = num_samples, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.num_samples

    def order(self, epoch):
        """The samples in the order of an epoch, (n,)."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)

    def __iter__(self):
        yield from (self.order(self.epoch) + self.epoch * self.num_samples).tolist()
