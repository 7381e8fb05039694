"""The splits of a dataset as [`ImageDataset`]s: loaded, divided, decoded."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from .arguments import DEFAULT_DATASET, IMAGE_SIZE, DataArguments
from .dataset import ImageDataset, channel_statistics
from .hub import provenance
from .images import decode_images
from .labels import Labels, check_classes, read_labels, warn_of_missing_classes
from .policies import Augmenter, build_policy
from .sources import VALIDATION_SPLITS, explaining, load_raw

if TYPE_CHECKING:
    from transformers import ViTImageProcessor

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ImageSplits:
    """
    The splits of a dataset, and what is known of its labels.

    Attributes:
        train, validation, test: None if not needed, or if no validation images are held out.
        label_names: the name of each class number.
        superclass_of: the superclass of each class number, int (num_labels,), or None.
        mean, std: of the channels, three numbers on the scale 0 to 1.
        image_size: height and width in pixels.
        provenance: see [`~hf_cifar_resnet.data.hub.provenance`].
        superclass_names: the name of each superclass number, or None.
        validation_is_held_out: whether the validation images are of the dataset's training split.
        own_label_names: the classes of the dataset in its own order, where [`numbered_as`] has changed it; else None.
    """

    train: ImageDataset | None
    validation: ImageDataset | None
    test: ImageDataset | None
    label_names: list[str]
    superclass_of: np.ndarray | None
    mean: list[float]
    std: list[float]
    image_size: int = IMAGE_SIZE
    provenance: dict[str, str | None] = field(default_factory=dict)
    superclass_names: list[str] | None = None
    validation_is_held_out: bool = False
    own_label_names: list[str] | None = None

    @property
    def id2label(self) -> dict[int, str]:
        """The name of each class number, as configurations of transformers have it."""
        return dict(enumerate(self.label_names))

    @property
    def label2id(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.label_names)}

    @property
    def missing_labels(self) -> list[str]:
        """The classes among `label_names` that the dataset does not have: none unless [`numbered_as`] added some."""
        return [] if self.own_label_names is None else sorted(set(self.label_names) - set(self.own_label_names))

    def numbered_as(self, label_names: list[str]) -> "ImageSplits":
        """
        Return the same images with the class numbers of a model, by the names of its classes, among which are all of
        the dataset's. Superclasses are left out where the dataset lacks a class, whose superclass it cannot name.
        """
        if label_names == self.label_names:
            return self
        number_of = {name: number for number, name in enumerate(label_names)}
        numbers = np.array([number_of[name] for name in self.label_names])
        parts = {name: part for name in SPLITS if (part := getattr(self, name)) is not None}
        superclass_of = None
        if self.superclass_of is not None and len(numbers) == len(label_names):
            superclass_of = self.superclass_of[np.argsort(numbers)]
        return replace(
            self,
            **{name: part.with_labels(numbers[part.labels.numpy()]) for name, part in parts.items()},
            label_names=label_names,
            superclass_of=superclass_of,
            superclass_names=None if superclass_of is None else self.superclass_names,
            own_label_names=self.label_names,
        )

    def digests(self) -> dict[str, object]:
        """Return the class names, mean and deviation, and a digest of the images and labels of each split, by name."""
        splits = {"training": self.train, "validation": self.validation, "test": self.test}
        digests = {f"{name} images": part.digest() for name, part in splits.items() if part is not None}
        return {"class names": self.label_names, **digests, "mean and deviation": (self.mean, self.std)}

    def image_processor(self) -> "ViTImageProcessor":
        """Return the transformers image processor that computes the same `pixel_values` from any image."""
        from transformers import ViTImageProcessor

        size = {"height": self.image_size, "width": self.image_size}
        return ViTImageProcessor(size=size, image_mean=self.mean, image_std=self.std, do_convert_rgb=True)


def load_splits(
    dataset_name: str = DEFAULT_DATASET, *, seed: int = 42, needed: Collection[str] = SPLITS, **options: Any
) -> ImageSplits:
    """
    Load, split and decode an image classification dataset.

    Args:
        dataset_name: a built-in name, a folder (laid out as on the Hub, or an image folder), or a Hub id.
        seed: of the augmentation.
        needed: names of the splits to decode. Without train, `image_mean` and `image_std` have to be given.
        options: fields of [`~hf_cifar_resnet.data.arguments.DataArguments`], such as `validation_fraction`.

    Raises:
        ValueError: if an argument or the dataset does not fit.
    """
    args = DataArguments(dataset_name, **options)
    policy = build_policy(args.augmentation, args.image_size, args.color_jitter, args.random_erasing)
    with explaining(args.dataset_name):
        raw, commit = load_raw(args)
        parts, labels = split_dataset(raw, args, needed)
    images = {name: decode_images(part, args.image_size, args.image_column_name) for name, part in parts.items()}
    if args.image_mean is not None and args.image_std is not None:
        mean, std = list(args.image_mean), list(args.image_std)
    else:
        mean, std = channel_statistics(images["train"])
    made = {}
    for name, part in parts.items():
        augmenter = Augmenter(policy, seed) if name == "train" and policy.transforms else None
        made[name] = ImageDataset(images[name], np.array(part["label"][:]), mean, std, augmenter)
    return ImageSplits(
        train=made.get("train"),
        validation=made.get("validation"),
        test=made.get("test"),
        label_names=labels.names,
        superclass_of=labels.superclass_of,
        superclass_names=labels.superclass_names,
        mean=mean,
        std=std,
        image_size=args.image_size,
        provenance=provenance(args.dataset_name, commit),
        validation_is_held_out="validation" in parts and "validation" not in _find_splits(raw, needed),
    )


def split_dataset(
    raw: Mapping[str, datasets.Dataset], args: DataArguments, needed: Collection[str] = SPLITS
) -> tuple[dict[str, datasets.Dataset], Labels]:
    """
    Return the needed splits, with the columns image, label and row, and what the labels mean. Raises `ValueError` if
    the dataset cannot be split as the arguments say.
    """
    parts, labels = read_labels(_find_splits(raw, needed), args)
    check_classes(parts, labels.names, needed)
    if "train" in parts and "validation" not in parts and args.validation_fraction > 0:
        parts["train"], parts["validation"] = _hold_out(parts["train"], args)
    parts = {name: part for name, part in parts.items() if name in needed}
    for name, part in parts.items():
        limit = args.max_train_samples if name == "train" else args.max_eval_samples
        if limit is not None and limit < len(part):
            parts[name] = part.select(stratified_sample(np.array(part["label"][:]), limit, args.split_seed))
    warn_of_missing_classes(parts, labels.names)
    return parts, labels


def _hold_out(train: datasets.Dataset, args: DataArguments) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Return the rest of the training split, and the validation images, which have the same share of every class."""
    fraction, labels = args.validation_fraction, np.array(train["label"][:])
    size = max(1, round(fraction * len(labels)))
    if size >= len(labels):
        raise ValueError(f"validation_fraction {fraction} leaves no training images of {len(labels)}")
    held_out = stratified_sample(labels, size, args.split_seed, leave_one=True)
    if not len(held_out):
        raise ValueError(
            f"validation_fraction {fraction} can hold out no image, since each class would lose its only one: "
            "set it to 0, or add images"
        )
    return train.select(np.setdiff1d(np.arange(len(labels)), held_out)), train.select(held_out)


def _find_splits(raw: Mapping[str, datasets.Dataset], needed: Collection[str]) -> dict[str, datasets.Dataset]:
    """Return the splits train, test and validation. A lone validation split becomes the test split."""
    validation = next((name for name in VALIDATION_SPLITS if name in raw), None)
    test = "test" if "test" in raw else validation
    names = {"train": "train", "test": test, "validation": None if validation == test else validation}
    splits = {split: raw[name] for split, name in names.items() if name is not None and name in raw}
    needed_names = {"train": "train", "test": "test (or validation)"}
    if any(split in needed and split not in splits for split in needed_names) or not splits:
        wanted = " and ".join(needed_names[split] for split in needed_names if split in needed)
        raise ValueError(
            f"the dataset needs the splits {wanted}, but has {', '.join(raw) or 'none'}: add what is missing"
        )
    for name, part in splits.items():
        if len(part) == 0:
            raise ValueError(f"the split {name} of the dataset is empty: give it images, or choose another dataset")
    return splits


def stratified_sample(labels: np.ndarray, size: int, seed: int, leave_one: bool = False) -> np.ndarray:
    """
    Return the sorted indices (size,) of a random sample of labels (n,) with the same share of every class. With
    `leave_one` no class is taken whole, even if the sample gets smaller.

    `Dataset.train_test_split(stratify_by_column=...)` refuses samples smaller than the number of classes and classes of
    one image, and would hold out other images than earlier runs did with the same seed.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * (size / len(labels))
    take = np.floor(exact).astype(int)
    # The largest remainders are rounded up; ties are broken at random.
    ties = rng.permutation(len(classes))
    by_remainder = ties[np.argsort(-(exact - take)[ties], kind="stable")]
    if leave_one:
        by_remainder = by_remainder[(counts - take)[by_remainder] > 1]
    take[by_remainder[: size - take.sum()]] += 1
    chosen = [order[labels[order] == label][:count] for label, count in zip(classes, take, strict=True)]
    return np.sort(np.concatenate(chosen))
