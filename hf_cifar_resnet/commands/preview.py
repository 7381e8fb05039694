"""
Draw training images before and after augmentation, and mixed if the recipe mixes, without training.

hf-cifar-resnet preview --augmentation randaugment
hf-cifar-resnet preview --config strong --images 4 --columns 4 --output strong.png
"""

import numpy as np
import torch

from ..checkpoints.outputs import check_output
from ..data.mixing import Mixer
from ..documents import atomic_write
from ..errors import UserError, printable
from ..reporting.plots import PICTURE, plot_images
from ..training.arguments import resolve
from ..training.build import load_data
from .line_parser import positive
from .parser import ALL_ARGUMENTS, CifarArgumentParser
from .session import quieten_libraries

LABEL_WIDTH = 14  # characters of a label for which there is room under an image
LARGEST_SHEET = 1_000  # augmented images, which take half a minute to draw


def main(argv, prog=None):
    """Draw a row for each image: as it is, then augmented anew for each column, then mixed with the row above."""
    options, data_args, args = _parse(argv, prog)
    quieten_libraries(args)
    data = load_data(data_args, args)
    # The first image of each of some classes, so that the sheet does not depend on chance.
    _, first = np.unique(data.train.labels.numpy(), return_index=True)
    rows = first[np.linspace(0, len(first), min(options.images, len(first)), endpoint=False).astype(int)]
    names = [_shorten(printable(name)) for name in data.label_names]
    labels = data.train.labels[rows]
    augmented = data.train.without_normalization()
    epochs = [augmented.at_epoch(epoch) for epoch in range(options.columns)]
    batches = [epoch.__getitems__(rows.tolist())["pixel_values"].numpy() for epoch in epochs]
    columns = [
        ("original", data.train.images[rows], [names[label] for label in labels]),
        *((f"epoch {number + 1}", batch, None) for number, batch in enumerate(batches)),
        *mixed_columns(batches, labels, names, args),
    ]
    with atomic_write(options.output) as file:
        plot_images(columns, file, _title(data_args, args))
    print(f"Policy {data_args.augmentation} on {len(rows)} images of {data_args.dataset_name}; drawn: {options.output}")


def _alphas(args):
    alphas = {"MixUp": args.mixup_alpha, "CutMix": args.cutmix_alpha}
    return {kind: alpha for kind, alpha in alphas.items() if alpha and args.mixing_probability}


def _title(data_args, args):
    mixing = " or ".join(f"{kind} {alpha:g}" for kind, alpha in _alphas(args).items())
    share = f" in {args.mixing_probability:.0%} of batches" if args.mixing_probability < 1 else ""
    return f"augmentation {data_args.augmentation}" + (f", {mixing}{share}" if mixing else "")


def mixed_columns(batches, labels, names, args):
    """
    Mix each image of a batch, uint8 (rows, height, width, 3), with the one before it, as the arguments say. MixUp and
    CutMix take turns, and half as many columns are made as there are batches, but at least one of each that is on.

    Returns triples of what mixed, the images, and the label names of each with their shares, a line for each.
    """
    kinds, columns = list(_alphas(args)), []
    for step in range(max(len(kinds), len(batches) // 2) if kinds else 0):
        kind = kinds[step % len(kinds)]
        cutmix_share = float(kind == "CutMix")
        mixer = Mixer(len(names), args.mixup_alpha, args.cutmix_alpha, cutmix_share=cutmix_share, seed=args.seed)
        pixels = torch.from_numpy(batches[step % len(batches)]).permute(0, 3, 1, 2).float()
        pixels, shares = mixer(pixels, labels, step)
        images = pixels.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()
        columns.append((kind, images, [_describe(row, names) for row in shares.tolist()]))
    return columns


def _describe(shares, names):
    present = sorted((share, label) for label, share in enumerate(shares) if share)
    return "\n".join(f"{names[label]} {share:.0%}" for share, label in reversed(present))


def _shorten(name):
    return name if len(name) <= LABEL_WIDTH else f"{name[: LABEL_WIDTH - 1]}…"


def _parse(argv, prog):
    description = "Draw training images before and after augmentation; all arguments of `train` apply."
    parser = CifarArgumentParser(ALL_ARGUMENTS, prog=prog, description=description)
    parser.add_argument("--images", type=positive, default=8, help="rows of the sheet, each of another class")
    parser.add_argument("--columns", type=positive, default=8, help="augmentations of each image")
    parser.add_argument("--output", default="preview.png", help="PNG to write")
    line = parser.parse(argv)
    options, arguments = line.options, resolve(line.arguments)
    if (count := options.images * options.columns) > LARGEST_SHEET:
        raise UserError(f"--images times --columns must be at most {LARGEST_SHEET:,}, got {count:,}")
    check_output("--output", options.output, PICTURE, ending=".png")
    return options, arguments.data, arguments.training
