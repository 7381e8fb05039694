"""
Draw training images before and after augmentation, and mixed if the recipe mixes, without training.

hf-cifar-resnet preview --augmentation randaugment
hf-cifar-resnet preview --config strong --images 4 --columns 4 --output strong.png
"""

import warnings
from argparse import Namespace
from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from ..checkpoints.outputs import check_output
from ..data.arguments import DataArguments
from ..data.mixing import Mixer
from ..documents import atomic_write
from ..errors import printable
from ..reporting.plots import PICTURE, plot_images
from ..training.arguments import CifarTrainingArguments, resolve
from ..training.build import load_data
from .line_parser import positive
from .parser import ALL_ARGUMENTS, CifarArgumentParser
from .session import quieten_libraries

MAX_LABEL = 14  # characters of a label for which there is room under an image
MAX_IMAGES = 1_000  # augmented images of a sheet, which take half a minute to draw
# A column of a sheet: its heading, images uint8 (rows, height, width, 3), and what stands under each of them.
Column = tuple[str, np.ndarray, list[str] | None]


def main(argv: Sequence[str], prog: str | None = None) -> None:
    """Draw a row for each image: as it is, then augmented anew for each column, then mixed with the row above."""
    options, data_args, args = _parse(argv, prog)
    quieten_libraries(args)
    data = load_data(data_args, args)
    assert data.train is not None
    # The first image of each of some classes, so that the sheet does not depend on chance.
    _, first = np.unique(data.train.labels.numpy(), return_index=True)
    rows = first[np.linspace(0, len(first), min(options.images, len(first)), endpoint=False).astype(int)]
    names = [_shorten(printable(name)) for name in data.label_names]
    labels = data.train.labels[rows]
    augmented = data.train.without_normalization()
    epochs = [augmented.at_epoch(epoch) for epoch in range(options.columns)]
    batches = [epoch.__getitems__(rows.tolist())["pixel_values"].numpy() for epoch in epochs]
    columns: list[Column] = [
        ("original", data.train.images[rows], [names[label] for label in labels.tolist()]),
        *((f"epoch {number + 1}", batch, None) for number, batch in enumerate(batches)),
        *mixed_columns(batches, labels, names, args),
    ]
    fonts, missing = choose_fonts("".join(names))
    with atomic_write(options.output) as file, matplotlib.rc_context({"font.family": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # of `missing`, which is printed below
        plot_images(columns, file, _title(data_args, args))
    print(f"Policy {data_args.augmentation} on {len(rows)} images of {data_args.dataset_name}; drawn: {options.output}")
    if missing:
        shown = "".join(sorted(missing)[:10])
        print(f"No installed font has {shown}, drawn as boxes: install one that does, such as Noto Sans CJK")


def choose_fonts(text: str) -> tuple[list[str], set[str]]:
    """
    Return the names of installed fonts that have all characters of a text, matplotlib's default first, and the
    characters that are in none.
    """
    fonts = list(matplotlib.rcParams["font.family"])
    missing = _not_in_font(set(text), font_manager.findfont(font_manager.FontProperties(family=fonts)))
    for entry in font_manager.fontManager.ttflist:
        if not missing:
            break
        if entry.name.startswith("Last Resort"):  # which has a box for every character
            continue
        rest = _not_in_font(missing, entry.fname)
        if len(rest) < len(missing):
            fonts.append(entry.name)
            missing = rest
    return fonts, missing


def _not_in_font(characters: set[str], path: str) -> set[str]:
    try:
        known = FT2Font(path).get_charmap()
    except (OSError, RuntimeError):  # a font that was removed, or that FreeType cannot read
        return characters
    return {character for character in characters if ord(character) not in known}


def _alphas(args: CifarTrainingArguments) -> dict[str, float]:
    alphas = {"MixUp": args.mixup_alpha, "CutMix": args.cutmix_alpha}
    return {kind: alpha for kind, alpha in alphas.items() if alpha and args.mixing_probability}


def _title(data_args: DataArguments, args: CifarTrainingArguments) -> str:
    mixing = " or ".join(f"{kind} {alpha:g}" for kind, alpha in _alphas(args).items())
    share = f" in {args.mixing_probability:.0%} of batches" if args.mixing_probability < 1 else ""
    return f"augmentation {data_args.augmentation}" + (f", {mixing}{share}" if mixing else "")


def mixed_columns(
    batches: Sequence[np.ndarray], labels: torch.Tensor, names: Sequence[str], args: CifarTrainingArguments
) -> list[Column]:
    """
    Mix each image of a batch, uint8 (rows, height, width, 3), with the one before it, as the arguments say. MixUp and
    CutMix take turns, and half as many columns are made as there are batches, but at least one of each that is on.

    Their headings say what mixed, and under each image stand the names of its labels with their shares.
    """
    kinds = list(_alphas(args))
    columns: list[Column] = []
    count = max(len(kinds), len(batches) // 2) if kinds else 0
    for step in range(count):
        kind = kinds[step % len(kinds)]
        cutmix_share = float(kind == "CutMix")
        mixer = Mixer(len(names), args.mixup_alpha, args.cutmix_alpha, cutmix_share=cutmix_share, seed=args.seed)
        pixels = torch.from_numpy(batches[step % len(batches)]).permute(0, 3, 1, 2).float()
        pixels, shares = mixer(pixels, labels, step)
        images = pixels.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()
        columns.append((kind, images, [_describe(row, names) for row in shares.tolist()]))
    return columns


def _describe(shares: Sequence[float], names: Sequence[str]) -> str:
    present = sorted((share, label) for label, share in enumerate(shares) if share)
    return "\n".join(f"{names[label]} {share:.0%}" for share, label in reversed(present))


def _shorten(name: str) -> str:
    return name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL - 1]}…"


def _parse(argv: Sequence[str], prog: str | None) -> tuple[Namespace, DataArguments, CifarTrainingArguments]:
    description = "Draw training images before and after augmentation; all arguments of `train` apply."
    parser = CifarArgumentParser(ALL_ARGUMENTS, prog=prog, description=description)
    parser.add_argument("--images", type=positive, default=8, help="rows of the sheet, each of another class")
    parser.add_argument("--columns", type=positive, default=8, help="augmentations of each image")
    parser.add_argument("--output", default="preview.png", help="PNG to write")
    line = parser.parse(argv)
    options, arguments = line.options, resolve(line.arguments)
    if (count := options.images * options.columns) > MAX_IMAGES:
        raise ValueError(f"--images times --columns must be at most {MAX_IMAGES:,}, got {count:,}")
    check_output("--output", options.output, PICTURE, ending=".png")
    return options, arguments.data, arguments.training
