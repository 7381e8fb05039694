"""Labels for image files: top-k as a table, JSON or CSV, streamed in batches."""

import csv
import glob
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image

from ..checkpoints.load import NOT_FINITE, label_names
from ..data.dataset import normalize, read_rgb_array
from ..errors import UserError, printable

MAX_NAME_WIDTH = 60


def find_images(places):
    """
    The image files of a list of files, folders (searched whole, for names that end as images do) and globs.

    Raises:
        UserError: for one that has none.
    """
    paths = []
    for place in places:
        if os.path.isdir(place):
            found = _images_below(place)
        elif os.path.exists(place):
            found = [place]
        else:
            found = sorted(path for path in glob.glob(place, recursive=True) if not os.path.isdir(path))
        if not found:
            raise UserError(f"the folder {place} holds no images" if os.path.isdir(place) else f"there is no {place}")
        paths += found
    return paths


def _images_below(folder):
    endings = tuple(Image.registered_extensions())
    found = []
    for parent, folders, files in os.walk(folder):
        folders.sort()
        found += [os.path.join(parent, name) for name in sorted(files) if name.lower().endswith(endings)]
    return found


class Predictor:
    """
    A model that answers for image files and arrays.

    Args:
        model ([`CifarResNetForImageClassification`]): in evaluation mode, on the device to use. Its configuration's
            `calibration_temperature` divides the logits.
        processor: the image processor saved with it, for size, mean and standard deviation.
    """

    def __init__(self, model, processor):
        self.model = model
        self.names = label_names(model)
        self.size = processor.size["height"]
        self.mean, self.std = processor.image_mean, processor.image_std
        self._readers = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def files(self, paths, top_k=5):
        """For each file its labels, as [`arrays`] gives them, or in words why it could not be read."""
        images = list(self._readers.map(self._read, paths))
        readable = [image for image in images if not isinstance(image, str)]
        answers = iter(self.arrays(np.stack(readable), top_k) if readable else ())
        return [image if isinstance(image, str) else next(answers) for image in images]

    def _read(self, path):
        try:
            return read_rgb_array(path, self.size)
        except Image.UnidentifiedImageError:
            return "not an image"
        except Exception as error:  # PIL's decoders raise whatever a broken file leads them to
            return " ".join(str(error).split()) or type(error).__name__

    @torch.inference_mode()
    def arrays(self, images, top_k=5):
        """
        The most probable labels of each image.

        Args:
            images (`np.ndarray`): uint8 (batch, size, size, 3).
            top_k (`int`): at most so many.

        Returns:
            for each image a list of (label name, probability), most probable first.

        Raises:
            UserError: where the model gives no probabilities.
        """
        pixels = normalize(images, self.mean, self.std).to(self.model.device)
        logits = self.model(pixel_values=pixels).logits.float() / self.model.config.calibration_temperature
        best = logits.softmax(dim=1).topk(min(top_k, len(self.names)), dim=1)
        if not best.values.isfinite().all():
            raise UserError(NOT_FINITE)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[(self.names[label], p) for label, p in zip(*row, strict=True)] for row in rows]


class _Table:
    """One line an image."""

    def __init__(self, file, width):
        self.file, self.width = file, width

    def row(self, path, answer):
        labels = "  ".join(f"{name} {probability:.1%}" for name, probability in answer)
        print(f"{printable(path):<{self.width}}  {printable(labels)}", file=self.file)

    def end(self):
        pass


class _Csv:
    """One row a label: image, rank, label, probability."""

    def __init__(self, file, width):
        self.writer = csv.writer(file, lineterminator="\n")
        self.writer.writerow(("image", "rank", "label", "probability"))

    def row(self, path, answer):
        self.writer.writerows((path, rank, *pair) for rank, pair in enumerate(answer, 1))

    def end(self):
        pass


class _Json:
    """A list of {"image": ..., "predictions": [{"label": ..., "score": ...}]}, the latter as transformers' pipeline."""

    def __init__(self, file, width):
        self.file, self.before = file, "[\n"

    def row(self, path, answer):
        predictions = [{"label": name, "score": probability} for name, probability in answer]
        line = json.dumps({"image": path, "predictions": predictions}, ensure_ascii=False)
        self.file.write(f"{self.before}{line}")
        self.before = ",\n"

    def end(self):
        self.file.write("\n]\n" if self.before == ",\n" else "[]\n")


FORMATS = {"table": _Table, "json": _Json, "csv": _Csv}
