"""Images a second of one core through pad, crop, flip, colour jitter and normalisation, ours and others' ways."""

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from torchvision import transforms as T

from ..data.augment import Augmenter
from ..data.dataset import ImageDataset, channel_statistics, collate, decode
from ..data.policies import PADDING, build_policy
from ..data.sources import load_raw, split

OURS, OFFICIAL, NOTEBOOK = "ours", "official example", "notebook"
MEMORY = "one memory pass"


def ways(data_args, batch_size, seed=0):
    """
    For [`take_turns`], all over the same training images in random batches, in this process and with one thread.

    - `ours`: what training does, up to normalised float32 batches; `ours, bytes`: up to what goes to a GPU.
    - `official example`: transformers' `run_image_classification.py`, with this augmentation: `datasets` decodes each
      image and `with_transform` applies torchvision's transforms to it.
    - `notebook`: Albumentations on each decoded image, up to ToTensorV2.
    - `one memory pass`: normalisation alone, which nothing that gives float32 can beat.
    """
    part = _training_part(data_args)
    images, labels = decode(part, data_args.image_size), np.array(part["label"][:])
    mean, std = channel_statistics(images)
    policy = build_policy("seed", data_args.image_size, data_args.color_jitter)
    ours = ImageDataset(images, labels, mean, std, Augmenter(policy, seed))
    plain = ImageDataset(images, labels, mean, std)
    settings = data_args.image_size, data_args.color_jitter, mean, std
    return {
        OURS: Batches(ours, batch_size, collate),
        "ours, bytes": Batches(ours.as_bytes(), batch_size, collate),
        NOTEBOOK: Batches(Notebook(images, labels, *settings), batch_size),
        OFFICIAL: Batches(part.with_transform(OfficialExample(*settings)), batch_size),
        MEMORY: Batches(plain, batch_size, collate),
    }


def _training_part(data_args):
    raw = load_raw(data_args.dataset_name, data_args.dataset_config_name, data_args.dataset_revision)
    columns = data_args.image_column_name, data_args.label_column_name
    parts, *_ = split(raw, *columns, 0, data_args.split_seed, data_args.max_train_samples, None)
    return parts["train"].select_columns(["image", "row", "label"])


class Batches:
    """Work for [`take_turns`]: one batch of a loader without workers, again and again."""

    def __init__(self, dataset, batch_size, collate_fn=None):
        batch_size = min(batch_size, len(dataset))
        self.loader = torch.utils.data.DataLoader(
            dataset, batch_size, shuffle=True, drop_last=True, collate_fn=collate_fn, generator=torch.Generator()
        )
        self.iterator = iter(self.loader)

    def __call__(self):
        batch = next(self.iterator, None)
        if batch is None:
            self.iterator = iter(self.loader)
            batch = next(self.iterator)
        return len(batch["pixel_values"])


class OfficialExample:
    """PIL images of a batch to tensors, one by one."""

    def __init__(self, size, color_jitter, mean, std):
        self.transform = T.Compose(
            [
                T.RandomCrop(size, padding=PADDING),
                T.RandomHorizontalFlip(),
                T.ColorJitter(*color_jitter),
                T.ToTensor(),
                T.Normalize(mean, std),
            ]
        )
        self.size = size, size

    def __call__(self, examples):
        images = (image.convert("RGB") for image in examples["image"])
        images = (image if image.size == self.size else image.resize(self.size) for image in images)
        return {"pixel_values": [self.transform(image) for image in images], "labels": examples["label"]}


class Notebook(torch.utils.data.Dataset):
    """Decoded images to tensors, one by one."""

    def __init__(self, images, labels, size, color_jitter, mean, std):
        brightness, contrast, saturation, hue = color_jitter
        self.images, self.labels = images, labels
        self.transform = A.Compose(
            [
                A.PadIfNeeded(size + 2 * PADDING, size + 2 * PADDING, border_mode=cv2.BORDER_CONSTANT, fill=0),
                A.RandomCrop(size, size),
                A.HorizontalFlip(p=0.5),
                A.ColorJitter(
                    (1 - brightness, 1 + brightness),
                    (1 - contrast, 1 + contrast),
                    (1 - saturation, 1 + saturation),
                    (-hue, hue),
                    p=1.0,
                ),
                A.Normalize(mean, std),
                ToTensorV2(),
            ]
        )

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = np.asarray(self.images[index])
        return {"pixel_values": self.transform(image=image)["image"], "labels": self.labels[index]}
