"""
Training images before and after augmentation, and mixed where the recipe mixes, without training.

hf-cifar-resnet preview --policy strong
"""

import numpy as np
import torch

from ..checkpoints.outputs import atomic_write, check_output
from ..data.mixing import Mixer
from ..errors import UserError, reports_user_errors
from ..reporting.plots import plot_images
from ..training.arguments import CifarTrainingArguments, DataArguments, ModelArguments
from ..training.build import load_data, quieten_libraries
from ..training.parser import CifarArgumentParser


@reports_user_errors
def main(argv=None, prog=None):
    """Draws a sheet: a row for each image, as it is, then augmented anew for each column, then mixed."""
    options, data_args, args = _parse(argv, prog)
    quieten_libraries(args)
    data = load_data(data_args, args.seed)
    # One image of each of the first classes: the sheet should not depend on luck.
    labels = data.train.labels
    rows = [int((labels == label).nonzero()[0]) for label in labels.unique()[: options.images].tolist()]
    names = [data.label_names[labels[row]] for row in rows]
    columns = [("before", data.train.images[rows])]
    for epoch in range(options.columns):
        columns.append((f"epoch {epoch + 1}", _augmented(data.train, rows, epoch)))
    if args.mixup_alpha or args.cutmix_alpha:
        mixer = Mixer(len(data.label_names), args.mixup_alpha, args.cutmix_alpha, 1.0, args.cutmix_share, args.seed)
        for step in range(options.columns // 2):
            columns.append((f"mixed {step + 1}", _mixed(mixer, columns[1 + step][1], labels[rows], step)))
    with atomic_write(options.output) as aside:
        plot_images(names, columns, aside)
    print(f"Policy {data_args.augmentation} on {len(rows)} images of {data_args.dataset_name}; drawn: {options.output}")


def _augmented(dataset, rows, epoch):
    if dataset.augmenter is None:
        return dataset.images[rows]
    return np.stack([dataset.augmenter(dataset.images[row], epoch, row) for row in rows])


def _mixed(mixer, images, labels, step):
    pixel_values, _ = mixer(torch.from_numpy(images).permute(0, 3, 1, 2).float(), labels, step)
    return pixel_values.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()


def _parse(argv, prog):
    types = (ModelArguments, DataArguments, CifarTrainingArguments)
    parser = CifarArgumentParser(
        types,
        prog=prog,
        description="Draw training images before and after augmentation; all arguments of `train` apply.",
    )
    parser.add_argument("--policy", help="the same as --augmentation")
    parser.add_argument("--images", type=int, default=8, help="rows of the sheet, each of another class")
    parser.add_argument("--columns", type=int, default=8, help="augmentations of each image")
    parser.add_argument("--output", default="preview.png", help="the PNG to write")
    options, _ = parser.parse_known_args(argv)
    _, data_args, args, options = parser.parse([*argv, *(["--augmentation", options.policy] if options.policy else [])])
    if options.images < 1 or options.columns < 1:
        raise UserError("--images and --columns must be at least 1")
    check_output("--output", options.output, ending=".png")
    return options, data_args, args
