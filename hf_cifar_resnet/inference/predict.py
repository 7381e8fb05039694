"""Labels for image files: top-k as a table, JSON or CSV, streamed in batches."""

import csv
import glob
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..data.dataset import normalize, read_rgb_array
from ..device import device_for
from ..errors import LineParser, UserError, printable, reports_user_errors
from ..training.outputs import check_output, writing
from ..training.trained import NOT_FINITE, label_names, load_checkpoint

MAX_NAME_WIDTH = 60


@reports_user_errors
def main(argv=None, prog=None):
    """Checkpoint and files -> predictions as they come -> the files that could not be read. Exits with 1 for those."""
    options = _parse(argv, prog)
    paths = find_images(options.images)
    if options.output is not None:
        check_output("--output", options.output, inputs=paths)
    model, processor = load_checkpoint(options.checkpoint)
    predictor = Predictor(model.to(device_for(options.use_cpu)), processor)
    unreadable = []
    with _opened(options.output) as file:
        write = FORMATS[options.format](file, min(MAX_NAME_WIDTH, max(map(len, paths))))
        # In a terminal that shows the answers they are the progress.
        with tqdm(total=len(paths), unit="img", disable=file.isatty() or not sys.stderr.isatty()) as bar:
            for start in range(0, len(paths), options.batch_size):
                batch = paths[start : start + options.batch_size]
                answers = predictor.files(batch, options.top_k)
                for path, answer in zip(batch, answers, strict=True):
                    # A file's name may be no valid Unicode.
                    path = path.encode("utf-8", "backslashreplace").decode("utf-8")
                    if isinstance(answer, str):
                        unreadable.append(printable(f"{path}: {answer}"))
                    else:
                        write.row(path, answer)
                bar.update(len(batch))
        write.end()
    if unreadable:
        print(f"{len(unreadable):,} of {len(paths):,} files could not be read:", file=sys.stderr)
        print(*(f"  {line}" for line in unreadable), sep="\n", file=sys.stderr)
        sys.exit(1)


def _parse(argv, prog):
    parser = LineParser(prog=prog, description="Label images.", allow_abbrev=False)
    parser.add_argument("checkpoint", help="a folder that training wrote, or a Hub id")
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER_OR_GLOB", help="of any size and mode")
    parser.add_argument("--top_k", type=int, default=5, help="labels for each image (5)")
    parser.add_argument("--format", choices=tuple(FORMATS), default="table", help="table if not given")
    parser.add_argument("--output", metavar="FILE", help="write there, not to the terminal")
    parser.add_argument("--batch_size", type=int, default=256, help="images at a time (256)")
    parser.add_argument("--use_cpu", action="store_true", help="even where there is a GPU")
    options = parser.parse_args(argv)
    for name in ("top_k", "batch_size"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(options, name)}")
    return options


@contextmanager
def _opened(path):
    """The file to write to, or the terminal."""
    if path is None:
        if sys.stdout is None:
            raise UserError("the standard output is closed: give --output")
        yield sys.stdout
        return
    with writing(path) as aside, open(aside, "w", encoding="utf-8", newline="") as file:
        yield file


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
