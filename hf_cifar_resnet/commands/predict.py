"""`predict`: label image files; the top classes as a table, JSON or CSV."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tqdm.auto import tqdm

from ..checkpoints.load import load_checkpoint
from ..checkpoints.outputs import check_output
from ..device import device_for, draw_without_width
from ..documents import atomic_write
from ..errors import printable
from ..hub.resolve import resolve_checkpoint
from ..inference.predict import (
    FORMATS,
    MAX_NAME_WIDTH,
    PATTERNS,
    LabelledImage,
    Predictor,
    describe_left_out,
    find_images,
)
from .line_parser import LineParser, positive


def main(argv: Sequence[str] | None, prog: str | None = None) -> None:
    """Print or write predictions for each image. List the files that cannot be read, and then exit with 1."""
    options = _parse(argv, prog)
    output_format = _find_format(options)
    paths, left_out = find_images(options.images)
    if options.output is not None:
        check_output("--output", options.output, PATTERNS[output_format], inputs=paths)
    model, processor = load_checkpoint(resolve_checkpoint(options.checkpoint))
    model.to(device_for(options.use_cpu))  # pyright: ignore[reportArgumentType]
    predictor = Predictor(model, processor)
    unreadable: list[str] = []

    def predict(bar: tqdm) -> Iterator[LabelledImage]:
        for start in range(0, len(paths), options.batch_size):
            batch = paths[start : start + options.batch_size]
            for path, predictions in zip(batch, predictor.predict_files(batch, options.top_k), strict=True):
                # A file's name need not be valid Unicode.
                path = path.encode("utf-8", "backslashreplace").decode("utf-8")
                if isinstance(predictions, str):
                    unreadable.append(printable(f"{path}: {predictions}"))
                else:
                    yield path, predictions
            bar.update(len(batch))

    with _open_output(options.output) as file:
        # In a terminal that shows the predictions a progress bar would be in their way.
        hidden = file.isatty() or not sys.stderr.isatty()
        with tqdm(total=len(paths), unit="img", disable=hidden) as bar:
            draw_without_width(bar)
            FORMATS[output_format](predict(bar), file, min(MAX_NAME_WIDTH, max(map(len, paths))))
    if left_out:
        line = f"left out: {describe_left_out(left_out)}; a file that is named itself is read whatever its ending"
        print(printable(line), file=sys.stderr)
    if unreadable:
        print(f"{len(unreadable):,} of {len(paths):,} files could not be read:", file=sys.stderr)
        print(*(f"  {line}" for line in unreadable), sep="\n", file=sys.stderr)
        sys.exit(1)


def _parse(argv: Sequence[str] | None, prog: str | None) -> Namespace:
    parser = LineParser(prog=prog, description="Label images.")
    parser.add_argument("checkpoint", help="a folder that training wrote, or a Hub id")
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER_OR_GLOB", help="images of any size and mode")
    parser.add_argument("--top_k", type=positive, default=5, help="labels for each image")
    parser.add_argument(
        "--format", choices=tuple(FORMATS), help="default: json or csv if --output ends so, table otherwise"
    )
    parser.add_argument("--output", metavar="FILE", help="file to write (default: the terminal)")
    parser.add_argument("--batch_size", type=positive, default=256, help="images at a time")
    parser.add_argument("--use_cpu", action="store_true", help="use the CPU even if there is a GPU")
    return parser.parse_args(argv)


def _find_format(options: Namespace) -> str:
    """Return the format that is asked for, or that the ending of the output means."""
    if options.format is not None:
        return options.format
    ending = Path(options.output or "").suffix.lower().removeprefix(".")
    return ending if ending in FORMATS else "table"


@contextmanager
def _open_output(path: str | None) -> Iterator[TextIO]:
    """Open the file to write to, or the terminal."""
    if path is None:
        if sys.stdout is None:
            raise ValueError("the standard output is closed: give --output")
        yield sys.stdout
        return
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        yield file
