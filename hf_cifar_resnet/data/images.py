"""Images from files and streams: read safely, and decoded once for all runs on a machine."""

import errno
import hashlib
import io
import math
import os
import shutil
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import psutil
from PIL import ExifTags, Image

from ..documents import atomic_write
from ..errors import one_line, reason_of
from .arguments import IMAGE_SIZE

if TYPE_CHECKING:
    import datasets

# PIL warns above MAX_IMAGE_PIXELS, and `read_rgb_array` refuses such an image.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# What PIL's decoders raise for damaged files.
DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError,
    TypeError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
# How an image is turned upright, by its orientation in EXIF.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@lru_cache
def _image_endings() -> tuple[str, ...]:
    return tuple(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def is_image_name(path: str) -> bool:
    """Return whether a file's name ends as that of an image that PIL reads."""
    return path.lower().endswith(_image_endings())


def is_hidden_name(name: str) -> bool:
    """Return whether a file or folder of this name is none of the user's, but what a system has left there."""
    return name.startswith(".") or name.lower() in ("__macosx", "__pycache__", "thumbs.db", "desktop.ini")


def to_rgb_array(image: Image.Image, size: int = IMAGE_SIZE, mode: str | None = None) -> np.ndarray:
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
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    if mode is not None and image.mode != mode:
        image = image.convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def read_rgb_array(
    source: str | os.PathLike[str] | IO[bytes], size: int = IMAGE_SIZE, mode: str | None = None
) -> np.ndarray:
    """
    Read an image file, a path or a stream, as [`to_rgb_array`] returns it.

    Raises:
        ValueError: if it is not an image, or damaged, a pipe or a device, EPS, or has more than
            `PIL.Image.MAX_IMAGE_PIXELS` (89 million). The message does not name the file.
        OSError: if the file cannot be opened.
    """
    if isinstance(source, (str, os.PathLike)):
        if os.path.exists(source) and not os.path.isfile(source):
            raise ValueError("not a regular file")
        with open(source, "rb") as stream:
            return read_rgb_array(stream, size, mode)
    with _load_image(source) as image:
        return to_rgb_array(image, size, mode)


def _load_image(stream: IO[bytes]) -> Image.Image:
    """Open and decode an image. Raises `ValueError` if that fails."""
    try:
        image = Image.open(stream)
        if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
            raise ValueError(f"{image.width:,} x {image.height:,} pixels are too many")
        if image.format == "EPS":
            raise ValueError("it is a program, which Ghostscript would have to run")
        image.load()
        image.getexif()  # which may be damaged too
    except Image.UnidentifiedImageError:
        raise ValueError("not an image") from None
    except DECODING_ERRORS as error:
        raise ValueError(one_line(error)) from error
    return image


def decode_images(dataset: "datasets.Dataset", size: int = IMAGE_SIZE, column: str | None = None) -> np.ndarray:
    """
    Return all images of a dataset as one uint8 array (n, size, size, 3).

    The array is written to the `datasets` cache, an image at a time, and memory-mapped, so that a dataset on disk is
    decoded once per machine and may be larger than the memory. It is in memory if the cache cannot be written.

    Args:
        dataset: with the columns image and row (the number of the image in its split).
        size: height and width in pixels.
        column: the original name of the image column, if it was given.

    Raises:
        ValueError: naming the image that cannot be decoded, or what does not fit.
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
        with suppress(OSError, ValueError, EOFError):  # it is absent or damaged
            return np.load(path, mmap_mode="r")
        try:
            _write_images(_decoded(dataset, size), shape, path)
            return np.load(path, mmap_mode="r")
        except OSError as error:
            reason = one_line(error)
    images = _empty(shape, f"the images of split {dataset.split}", reason)
    for i, image in enumerate(_decoded(dataset, size)):
        images[i] = image
    return images


def _write_images(images: Iterable[np.ndarray], shape: tuple[int, ...], path: Path) -> None:
    """Write uint8 images as one array of this shape to a file of numpy's. Raises `OSError`, and leaves nothing then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if math.prod(shape) > shutil.disk_usage(path.parent).free:
        raise OSError(f"{path.parent}: {os.strerror(errno.ENOSPC)}")
    # Written, not mapped: on a full disk a write raises an error, where a mapped page would kill the process.
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for image in images:
            file.write(image.tobytes())


def _empty(shape: tuple[int, ...], what: str, reason: str) -> np.ndarray:
    """Return an uninitialised uint8 array. Raises `ValueError` if the memory cannot hold it."""
    needed, free = math.prod(shape), psutil.virtual_memory().available
    with suppress(MemoryError):
        if needed <= free:
            return np.empty(shape, dtype=np.uint8)
    raise ValueError(
        f"{what} need {needed / 1e9:,.2f} GB at {shape[1]} x {shape[2]} pixels, but fit neither into the memory "
        f"({free / 1e9:,.2f} GB) nor into the cache ({reason}): choose a smaller image_size or fewer images, or set "
        "HF_DATASETS_CACHE to a folder with more space"
    )


def _decoded(dataset: "datasets.Dataset", size: int) -> Iterator[np.ndarray]:
    """Yield the images of a dataset one after another, uint8 (size, size, 3). Raises `ValueError` that names one."""
    from datasets import Image as ImageFeature

    mode = dataset.features["image"].mode
    rows = dataset.cast_column("image", ImageFeature(decode=False))
    for row in cast(Iterable[dict[str, Any]], rows):
        source = row["image"] or {"bytes": None, "path": None}
        try:
            image = _read_cell(source, size, mode)
        except (OSError, ValueError) as error:
            file = f" ({source['path']})" if source["path"] else ""
            reason = reason_of(error)
            raise ValueError(
                f"image {row['row']} of split {dataset.split}{file} cannot be decoded: {reason}. Remove or replace it."
            ) from error
        yield image


def _read_cell(source: dict[str, Any], size: int, mode: str | None) -> np.ndarray:
    """Read a cell of an image column: `bytes`, or the `path` of a file."""
    if source["bytes"] is not None:
        return read_rgb_array(io.BytesIO(source["bytes"]), size, mode)
    if source["path"] is None:
        raise ValueError("not an image")
    return read_rgb_array(source["path"], size, mode)
