"""Images a second of one core through pad, crop, flip, colour jitter and normalisation, ours and others'."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from torchvision import transforms as T

from ..data.arguments import DataArguments
from ..data.dataset import ImageDataset, channel_statistics, collate
from ..data.images import decode_images
from ..data.policies import PADDING, Augmenter, build_policy
from ..data.sources import load_raw
from ..data.splits import split_dataset

OURS, OFFICIAL, NOTEBOOK = "ours", "official example", "notebook"
MEMORY = "one memory pass"


def make_candidates(data_args: DataArguments, batch_size: int, seed: int = 0) -> dict[str, "Batches"]:
    """
    Return the candidates for [`measure_in_turns`] with one thread, each over the same images in random batches.

    `ours` ends with normalised float32 batches, `ours, bytes` with what goes to a GPU. `one memory pass` normalises
    alone, the least that anything in float32 does.
    """
    raw, _ = load_raw(data_args)
    parts, *_ = split_dataset(raw, dataclasses.replace(data_args, validation_fraction=0))
    part = parts["train"].select_columns(["image", "row", "label"])
    images, labels = decode_images(part, data_args.image_size), np.array(part["label"][:])
    mean, std = channel_statistics(images)
    policy = build_policy("crop_flip_jitter", data_args.image_size, data_args.color_jitter)
    ours = ImageDataset(images, labels, mean, std, Augmenter(policy, seed))
    settings = data_args.image_size, data_args.color_jitter, mean, std
    return {
        OURS: Batches(ours, batch_size, collate),
        "ours, bytes": Batches(ours.without_normalization(), batch_size, collate),
        NOTEBOOK: Batches(Notebook(images, labels, *settings), batch_size),
        OFFICIAL: Batches(part.with_transform(OfficialExample(*settings)), batch_size),
        MEMORY: Batches(ImageDataset(images, labels, mean, std), batch_size, collate),
    }


class Batches:
    """Work for [`measure_in_turns`]: one batch of a loader without workers, epoch after epoch."""

    def __init__(self, dataset: Any, batch_size: int, collate_fn: Callable[[Any], dict[str, Any]] | None = None):
        batch_size = min(batch_size, len(dataset))
        self.loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
            dataset, batch_size, shuffle=True, drop_last=True, collate_fn=collate_fn, generator=torch.Generator()
        )
        self.iterator: Iterator[Any] = itertools.chain.from_iterable(itertools.repeat(self.loader))

    def __call__(self) -> int:
        return len(next(self.iterator)["pixel_values"])


class OfficialExample:
    """What transformers' `run_image_classification.py` does, with this augmentation: torchvision on each PIL image."""

    def __init__(self, size: int, color_jitter: Sequence[float], mean: Sequence[float], std: Sequence[float]):
        crop, flip = T.RandomCrop(size, padding=PADDING), T.RandomHorizontalFlip()
        jitter, normalize = T.ColorJitter(*color_jitter), T.Normalize(mean, std)
        # Images that have this size already are not resized.
        steps = [T.Resize((size, size)), crop, flip, jitter, T.ToTensor(), normalize]
        self.transform: Callable[..., Any] = T.Compose(steps)

    def __call__(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        images = [self.transform(image.convert("RGB")) for image in examples["image"]]
        return {"pixel_values": images, "labels": examples["label"]}


class Notebook(torch.utils.data.Dataset[dict[str, Any]]):
    """Albumentations on each decoded image, up to ToTensorV2."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        size: int,
        color_jitter: Sequence[float],
        mean: Sequence[float],
        std: Sequence[float],
    ):
        self.images: np.ndarray = images
        self.labels: np.ndarray = labels
        transforms: list[A.BasicTransform | A.BaseCompose] = [
            A.PadIfNeeded(size + 2 * PADDING, size + 2 * PADDING, border_mode=cv2.BORDER_CONSTANT, fill=0),
            A.RandomCrop(size, size),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(*color_jitter, p=1.0),
            A.Normalize(tuple(mean), tuple(std)),
            ToTensorV2(),
        ]
        self.transform: Callable[..., Any] = A.Compose(transforms)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = np.asarray(self.images[index])
        return {"pixel_values": self.transform(image=image)["image"], "labels": self.labels[index]}
