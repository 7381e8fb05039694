"""Loading image classification datasets from the Hub, a folder or memory, and splitting them."""

import hashlib
import os
import re
from dataclasses import dataclass, field

import datasets
import numpy as np

from ..choices import DEFAULT_DATASET, IMAGE_SIZE
from ..errors import UserError, as_user_error, one_line
from .arguments import DataArguments
from .augment import Augmenter
from .dataset import ImageDataset, channel_statistics, decode_images
from .faults import explain, explaining
from .policies import build_policy
from .provenance import provenance
from .shapes import shapes100

BUILT_IN = {"shapes100": shapes100}
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")
MAX_LABELS = 10**6
# `datasets` infers no labels from a single folder.
ONE_CLASS = "in a folder of images, train needs those of two classes or more, each in a folder of its own"
SUPERCLASS_COLUMNS = ("superclass", "coarse_label")
SPLITS = ("train", "validation", "test")


@dataclass
class ImageSplits:
    """
    The splits of a dataset, and what is known of its labels.

    Attributes:
        train, validation, test ([`ImageDataset`] or None): None if not needed, or if no validation images are held out.
        label_names (`list[str]`): the name of each class number.
        superclass_of (`np.ndarray` of shape `(num_labels,)`, *optional*): the superclass of each class number.
        superclass_names (`list[str]`, *optional*): the name of each superclass number.
        mean, std (lists of three floats): of the channels, on the scale 0 to 1.
        provenance (`dict`): see [`~hf_cifar_resnet.data.provenance.provenance`].
    """

    train: ImageDataset | None
    validation: ImageDataset | None
    test: ImageDataset | None
    label_names: list
    superclass_of: np.ndarray | None
    mean: list
    std: list
    image_size: int = IMAGE_SIZE
    provenance: dict = field(default_factory=dict)
    superclass_names: list | None = None
    id2label: dict = field(init=False)
    label2id: dict = field(init=False)

    def __post_init__(self):
        self.id2label = dict(enumerate(self.label_names))
        self.label2id = {name: number for number, name in enumerate(self.label_names)}

    def image_processor(self):
        """Return the transformers image processor that computes the same `pixel_values` from any image."""
        from transformers import ViTImageProcessor

        size = {"height": self.image_size, "width": self.image_size}
        return ViTImageProcessor(size=size, image_mean=self.mean, image_std=self.std, do_convert_rgb=True)


def load_splits(dataset_name=DEFAULT_DATASET, *, seed=42, needed=SPLITS, **options):
    """
    Load, split and decode an image classification dataset. Returns [`ImageSplits`], and raises [`UserError`].

    Args:
        dataset_name (`str`): a built-in name, a folder (laid out as on the Hub, or an image folder), or a Hub id.
        seed (`int`): of the augmentation.
        needed (names of splits): splits to decode. Without train, `image_mean` and `image_std` have to be given.
        options: fields of [`~hf_cifar_resnet.data.arguments.DataArguments`], such as `validation_fraction`.
    """
    with as_user_error("", ValueError):
        args = DataArguments(dataset_name, **options)
        policy = build_policy(args.augmentation, args.image_size, args.color_jitter, args.random_erasing)
    with explaining(args.dataset_name):
        raw, commit = load_raw(args)
        parts, label_names, superclass_of, superclass_names = split_dataset(raw, args, needed)
    images = {name: decode_images(part, args.image_size, args.image_column_name) for name, part in parts.items()}
    mean, std = args.image_mean, args.image_std
    if mean is None:
        mean, std = channel_statistics(images["train"])
    made = {name: ImageDataset(images[name], part["label"][:], mean, std) for name, part in parts.items()}
    if "train" in made and policy.transforms:
        made["train"].augmenter = Augmenter(policy, seed)
    return ImageSplits(
        *(made.get(name) for name in SPLITS),
        label_names=label_names,
        superclass_of=superclass_of,
        superclass_names=superclass_names,
        mean=list(mean),
        std=list(std),
        image_size=args.image_size,
        provenance=provenance(args.dataset_name, commit),
    )


def load_raw(args):
    """
    Return the dataset of [`DataArguments`] as a `datasets.DatasetDict`, and its commit on the Hub, or None. Raises
    [`UserError`] if it cannot be loaded.
    """
    name = args.dataset_name
    if name in BUILT_IN:
        return BUILT_IN[name](), None
    offline_ways = f"give a local folder instead, or try --dataset_name {next(iter(BUILT_IN))}, which needs no network"
    is_folder = os.path.isdir(name)
    is_hub_id = re.fullmatch(r"[^.~/\\][^/]*(/[^/]+)?", name)
    if not is_folder and os.path.exists(name):
        raise UserError(f"--dataset_name {name} is not a folder: give the one that the dataset's files are in")
    if not is_folder and not is_hub_id:
        raise UserError(f"--dataset_name {name}: there is no such folder; {offline_ways}")
    if is_folder and re.search(r"[*?\[\]\r\n]|::", os.path.abspath(name)):
        raise UserError(
            f"the folder {name} cannot be read: datasets takes *, ?, [, ], :: and line breaks in its path "
            "for a pattern; rename it, or give a link to it of another name"
        )
    try:
        options = {"description": _hash_folder(name)} if is_folder else {"revision": args.dataset_revision}
        # What `datasets.load_dataset` does; its result does not know the commit.
        builder = datasets.load_dataset_builder(
            os.path.abspath(name) if is_folder else name, args.dataset_config_name, **options
        )
        builder.download_and_prepare()
        return builder.as_dataset(), None if is_folder else builder.hash
    except Exception as error:  # datasets raises anything from OSError to pyarrow's errors
        # A DatasetGenerationError says only that something was wrong.
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
        reason = one_line(cause or error).rstrip(".")
        if fault := explain(error, name, args.dataset_config_name):
            raise UserError(fault) from error
        if is_folder:
            raise UserError(
                f"the folder {name} cannot be read: {reason}; it needs the parquet files or images of train and test"
            ) from error
        raise UserError(f"the dataset {name} cannot be loaded from the Hub: {reason}; {offline_ways}") from error


def _hash_folder(folder):
    """
    Return a hash of the sizes and times of all files in a folder. `datasets` uses modification times alone, which
    copying preserves, and would take an older table from its cache.
    """
    paths = (os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)
    found = sorted((path, os.stat(path)) for path in paths if os.path.isfile(path))
    stats = [(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in found]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def split_dataset(raw, args, needed=SPLITS):
    """
    Return the needed splits as a dict of `datasets.Dataset` with columns image, label and row; the label names; and the
    superclass of each label and the superclasses' names, or None and None.
    """
    parts, names, superclass_of, superclass_names = _canonical(_find_splits(raw, needed), args)
    fraction = args.validation_fraction
    if "train" in parts and "validation" not in parts and fraction > 0:
        labels = np.array(parts["train"]["label"][:])
        held_out = stratified_sample(labels, max(1, round(fraction * len(labels))), args.split_seed)
        kept = np.setdiff1d(np.arange(len(labels)), held_out)
        if len(kept) == 0:
            raise UserError(f"--validation_fraction {fraction} leaves no training images of {len(labels)}")
        parts["validation"] = parts["train"].select(held_out)
        parts["train"] = parts["train"].select(kept)
    parts = {name: part for name, part in parts.items() if name in needed}
    for name, part in parts.items():
        limit = args.max_train_samples if name == "train" else args.max_eval_samples
        if limit is not None and limit < len(part):
            parts[name] = part.select(stratified_sample(np.array(part["label"][:]), limit, args.split_seed))
    return parts, names, superclass_of, superclass_names


def _find_splits(raw, needed):
    """Return the splits train, test and validation. A lone validation split becomes the test split."""
    validation = next((name for name in ("validation", "valid", "val", "dev") if name in raw), None)
    test = "test" if "test" in raw else validation
    names = {"train": "train", "test": test, "validation": None if validation == test else validation}
    splits = {split: raw[name] for split, name in names.items() if name in raw}
    words = {"train": "train", "test": "test (or validation)"}
    if any(split in needed and split not in splits for split in words) or not splits:
        wanted = " and ".join(words[split] for split in words if split in needed)
        raise UserError(
            f"the dataset needs the splits {wanted}, but has {', '.join(raw) or 'none'}: add what is missing"
        )
    for name, part in splits.items():
        if len(part) == 0:
            raise UserError(f"the split {name} of the dataset is empty: give it images, or choose another dataset")
    return splits


def _canonical(splits, args):
    # The columns of the first split are those of all: `datasets` fills a column that a split lacks with None.
    first, model = next(iter(splits.items()))
    columns = model.column_names
    image_column = _find_column("image", args.image_column_name, IMAGE_COLUMNS, columns)
    label_column = _find_column("label", args.label_column_name, LABEL_COLUMNS, columns)
    superclasses = [name for name in SUPERCLASS_COLUMNS if name in columns and name != label_column]
    superclass = next((name for name in superclasses if _is_of_classes(model.features[name])), None)
    names = _label_names(splits, label_column)
    renames = {image_column: "image", label_column: "label", superclass: "superclass"}
    for name, part in splits.items():
        if not isinstance(part.features[image_column], datasets.Image):
            raw = getattr(part.features[image_column], "dtype", None) in ("binary", "large_binary")
            hint = "; if its bytes are image files, write it with the feature datasets.Image()" * raw
            raise UserError(
                f"the column {image_column} holds no images; name the right one with --image_column_name{hint}"
            )
        part = part.select_columns([old for old in renames if old in part.column_names])
        part = part.rename_columns({old: renames[old] for old in part.column_names if old != renames[old]})
        part = part.add_column("row", range(len(part)))
        if "string" in (getattr(part.features["label"], "dtype", None) or ""):
            part = part.cast_column("label", datasets.ClassLabel(names=names))
        _check_labels(part, name, len(names))
        splits[name] = part
    superclass_of, superclass_names = _superclasses(splits[first], len(names)) if superclass else (None, None)
    return splits, [str(name) for name in names], superclass_of, superclass_names


def _find_column(kind, given, candidates, columns):
    flag, listed = f"--{kind}_column_name", ", ".join(columns)
    if given is not None and given not in columns:
        raise UserError(f"{flag} {given}: there is no such column; the dataset has: {listed}")
    found = given or next((name for name in candidates if name in columns), None)
    if found is None:
        hint = f"; {ONE_CLASS}" if kind == "label" and columns == ["image"] else ""
        raise UserError(f"found no {kind} column among: {listed}; name it with {flag}{hint}")
    return found


def _label_names(splits, column):
    feature = next(iter(splits.values())).features[column]
    if isinstance(feature, datasets.ClassLabel):
        return feature.names
    if not _is_of_classes(feature):
        raise UserError(f"the column {column} holds no class labels; name the right one with --label_column_name")
    values = {value for part in splits.values() for value in part.unique(column)}
    if None in values:
        raise UserError(f"the column {column} is empty for some images: remove them or label them")
    if "string" in feature.dtype:
        return sorted(values)
    if max(values) >= MAX_LABELS:
        raise UserError(f"the column {column} has the label {max(values)}, which is too large for a class number")
    return list(range(max(values) + 1))


def _is_of_classes(feature):
    dtype = feature.dtype if isinstance(feature, (datasets.Value, datasets.ClassLabel)) else ""
    return "int" in dtype or "string" in dtype


def _check_labels(part, split_name, num_labels):
    labels = part["label"][:]
    if set(labels) == {None}:
        raise UserError(f"no image of split {split_name} has a label; {ONE_CLASS}")
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < num_labels:
            raise UserError(
                f"image {row} of split {split_name} has the label {label}, outside 0 to {num_labels - 1}: "
                "remove it, or name another column with --label_column_name"
            )


def _superclasses(part, num_labels):
    """Return the superclass number of each label and the superclasses' names, or None and None if not unique."""
    pairs = set(zip(part["label"][:], part["superclass"][:], strict=True))
    if len(pairs) != num_labels or {label for label, _ in pairs} != set(range(num_labels)):
        return None, None
    groups = [group for _, group in sorted(pairs)]
    if isinstance(part.features["superclass"], datasets.ClassLabel):
        return np.array(groups), part.features["superclass"].names
    names = sorted(set(groups), key=str)
    return np.array([names.index(group) for group in groups]), [str(name) for name in names]


def stratified_sample(labels, size, seed):
    """
    Return the sorted indices (size,) of a random sample of labels (n,) with the same share of every class.

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
    take[by_remainder[: size - take.sum()]] += 1
    chosen = [order[labels[order] == label][:count] for label, count in zip(classes, take, strict=True)]
    return np.sort(np.concatenate(chosen))
