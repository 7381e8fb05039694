"""
Draw training images before and after augmentation, and mixed if the recipe mixes, without training.

hf-cifar-resnet preview --augmentation strong
"""

import torch

from ..checkpoints.outputs import check_output
from ..data.mixing import Mixer
from ..documents import atomic_write
from ..reporting.plots import PICTURE, plot_images
from ..training.build import load_data, quieten_libraries
from ..training.parser import ALL_ARGUMENTS, CifarArgumentParser
from . import positive


def main(argv, prog=None):
    """Draw a row for each image: as it is, then augmented anew for each column, then mixed."""
    options, data_args, args = _parse(argv, prog)
    quieten_libraries(args)
    data = load_data(data_args, args)
    # One image of each of the first classes, so that the sheet does not depend on chance.
    labels = data.train.labels
    rows = [int((labels == label).nonzero()[0]) for label in labels.unique()[: options.images].tolist()]
    names = [data.label_names[labels[row]] for row in rows]
    columns = [("before", data.train.images[rows])]
    augmented = data.train.without_normalization()
    for epoch in range(options.columns):
        batch = augmented.__getitems__([epoch * len(augmented) + row for row in rows])
        columns.append((f"epoch {epoch + 1}", batch["pixel_values"].numpy()))
    if args.mixup_alpha or args.cutmix_alpha:
        mixer = Mixer(len(data.label_names), args.mixup_alpha, args.cutmix_alpha, 1.0, args.cutmix_share, args.seed)
        for step in range(options.columns // 2):
            pixels = torch.from_numpy(columns[1 + step][1]).permute(0, 3, 1, 2).float()
            mixed = mixer(pixels, labels[rows], step)[0].permute(0, 2, 3, 1).round().to(torch.uint8)
            columns.append((f"mixed {step + 1}", mixed.numpy()))
    with atomic_write(options.output) as file:
        plot_images(names, columns, file)
    print(f"Policy {data_args.augmentation} on {len(rows)} images of {data_args.dataset_name}; drawn: {options.output}")


def _parse(argv, prog):
    description = "Draw training images before and after augmentation; all arguments of `train` apply."
    parser = CifarArgumentParser(ALL_ARGUMENTS, prog=prog, description=description)
    parser.add_argument("--images", type=positive, default=8, help="rows of the sheet, each of another class")
    parser.add_argument("--columns", type=positive, default=8, help="augmentations of each image")
    parser.add_argument("--output", default="preview.png", help="PNG to write")
    _, data_args, args, options = parser.parse(argv)
    check_output("--output", options.output, PICTURE, ending=".png")
    return options, data_args, args
