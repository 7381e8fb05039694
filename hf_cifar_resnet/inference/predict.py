"""Label image files: the top-k labels as a table, JSON or CSV, streamed in batches."""

from __future__ import annotations

import csv
import glob
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TextIO

import numpy as np
import torch

from ..checkpoints.load import label_names
from ..data.dataset import normalize
from ..data.images import is_hidden_name, is_image_name, read_rgb_array
from ..errors import one_line, printable, reason_of
from ..evaluation.scores import NOT_FINITE
from ..model import CifarResNetForImageClassification

if TYPE_CHECKING:
    from transformers import ViTImageProcessor

MAX_NAME_WIDTH = 60
ENDINGS_SHOWN = 5  # of files that are left out


class Prediction(NamedTuple):
    """A label, and its probability, 0 to 1."""

    label: str
    probability: float


# The path of an image, and its predictions, most probable first.
LabelledImage = tuple[str, list[Prediction]]


def find_images(places: Iterable[str]) -> tuple[list[str], Counter[str]]:
    """
    Find the image files among files, folders (with those below, but nothing hidden) and globs of files or folders.

    Return their paths, and the number of files in the folders that are left out, by their endings. Raises `ValueError`
    for a place without images, and `OSError` for a folder that cannot be read.
    """
    paths, left_out = [], Counter()
    for place in places:
        matches = [place]
        if not os.path.exists(place):
            globbed = sorted(glob.glob(place, recursive=True))
            matches = [path for path in globbed if not is_hidden_name(os.path.basename(path))]
        found = [path for path in matches if not os.path.isdir(path)]
        if not found:
            below = [path for folder in matches for path in sorted(_files_below(folder))]
            found = [path for path in below if is_image_name(path)]
            left_out.update(os.path.splitext(path)[1].lower() for path in below if not is_image_name(path))
        if not found and matches:
            others = f", but {describe_left_out(left_out)}" if left_out else ""
            raise ValueError(f"the folder {place} holds no images{others}")
        if not found:
            raise FileNotFoundError(f"there is no {place}")
        paths += found
    return paths, left_out


def _files_below(folder: str) -> Iterator[str]:
    """Yield the files in a folder, in those below and in those that it links to, but nothing hidden."""

    def refuse(error: OSError) -> NoReturn:
        raise error  # `os.walk` would leave out a folder that cannot be read

    seen = set()
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden_name(name)]
        real = os.path.realpath(parent)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        yield from (os.path.join(parent, name) for name in names if not is_hidden_name(name))


def describe_left_out(left_out: Counter[str]) -> str:
    """Describe what [`find_images`] leaves out, such as "3 other files (2 .heic, 1 without an ending)"."""
    kinds = [f"{count:,} {ending or 'without an ending'}" for ending, count in left_out.most_common(ENDINGS_SHOWN)]
    more = ", ..." if len(left_out) > ENDINGS_SHOWN else ""
    total = left_out.total()
    return f"{total:,} other file{'s' if total > 1 else ''} ({', '.join(kinds)}{more})"


class Predictor:
    """A model in evaluation mode, with its image processor, that labels image files and arrays."""

    def __init__(self, model: CifarResNetForImageClassification, processor: ViTImageProcessor):
        self.model = model
        self.names: list[str] = label_names(model)
        self.size: int = processor.size["height"]
        self.mean: list[float] = processor.image_mean
        self.std: list[float] = processor.image_std
        self._readers = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def predict_files(self, paths: Sequence[str], top_k: int = 5) -> list[list[Prediction] | str]:
        """Return for each file its predictions, or a text that says why it cannot be read."""
        images = list(self._readers.map(self._read, paths))
        readable = [image for image in images if not isinstance(image, str)]
        predictions = iter(self.predict_arrays(np.stack(readable), top_k) if readable else ())
        return [image if isinstance(image, str) else next(predictions) for image in images]

    def _read(self, path: str) -> np.ndarray | str:
        try:
            return read_rgb_array(path, self.size)
        except OSError as error:
            return reason_of(error)
        except ValueError as error:  # of a file that is not an image, or damaged
            return one_line(error)

    @torch.inference_mode()
    def predict_arrays(self, images: np.ndarray, top_k: int = 5) -> list[list[Prediction]]:
        """
        Return for each image, uint8 (batch, size, size, 3), its predictions, most probable first. Raises `ValueError`
        if the probabilities are not finite.
        """
        pixels = normalize(images, self.mean, self.std).to(self.model.device)
        logits = self.model(pixel_values=pixels).logits.float() / self.model.config.calibration_temperature
        best = logits.softmax(dim=1).topk(min(top_k, len(self.names)), dim=1)
        if not best.values.isfinite().all():
            raise ValueError(f"{NOT_FINITE.format('the model')}, or its calibration_temperature too small")
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[Prediction(self.names[label], p) for label, p in zip(*row, strict=True)] for row in rows]


def write_table(images: Iterable[LabelledImage], file: TextIO, width: int) -> None:
    """Write one line for each image, whose path is padded to a width."""
    for path, predictions in images:
        shown = "  ".join(f"{label} {probability:.1%}" for label, probability in predictions)
        print(f"{printable(path):<{width}}  {printable(shown)}", file=file)


def write_csv(images: Iterable[LabelledImage], file: TextIO, width: int) -> None:
    """Write one row for each label: image, rank, label, probability."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("image", "rank", "label", "probability"))
    for path, predictions in images:
        writer.writerows((path, rank, *prediction) for rank, prediction in enumerate(predictions, 1))


def write_json(images: Iterable[LabelledImage], file: TextIO, width: int) -> None:
    """Write a list of {"image": ..., "predictions": [...]}, with the predictions of transformers' pipeline."""
    before = "["
    for path, predictions in images:
        scored = [{"label": label, "score": probability} for label, probability in predictions]
        line = json.dumps({"image": path, "predictions": scored}, ensure_ascii=False)
        file.write(f"{before}\n{line}")
        before = ","
    file.write("\n]\n" if before == "," else "[]\n")


FORMATS: dict[str, Callable[[Iterable[LabelledImage], TextIO, int], None]] = {
    "table": write_table,
    "json": write_json,
    "csv": write_csv,
}
# How such a file begins.
PATTERNS = {
    "table": rb"\A[^\n]+  [^\n]+ \d+\.\d%[ \n]",
    "json": rb'\A\[\n{"image": [^\n]*"predictions": \[',
    "csv": rb"\Aimage,rank,label,probability\n",
}
