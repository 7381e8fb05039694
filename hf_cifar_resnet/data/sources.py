"""Loading image classification datasets from the Hub, a folder or memory, and splitting them."""

import logging
import os
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
from huggingface_hub import try_to_load_from_cache

from ..choices import DEFAULT_DATASET, IMAGE_SIZE
from ..errors import UserError, explained, one_line, shorten
from ..processes import is_rank_0
from . import folders
from .arguments import DataArguments
from .augment import Augmenter
from .dataset import ImageDataset, channel_statistics
from .faults import explain, explaining
from .hub_cache import of_revision
from .images import decode_images
from .policies import build_policy
from .provenance import provenance
from .shapes import shapes100

BUILT_IN = {"shapes100": shapes100}
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")
MAX_LABELS = 10_000  # whose confusion matrix takes 800 MB
SUPERCLASS_COLUMNS = ("superclass", "coarse_label")
SPLITS = ("train", "validation", "test")
VALIDATION_SPLITS = ("validation", "valid", "val", "dev")
USED_SPLITS = ("train", *VALIDATION_SPLITS, "test")

logger = logging.getLogger(__name__)


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

    def digests(self) -> dict[str, object]:
        """Return the class names, mean and deviation, and a digest of the images and labels of each split, by name."""
        splits = {"training": self.train, "validation": self.validation, "test": self.test}
        digests = {f"{name} images": part.digest() for name, part in splits.items() if part is not None}
        return {"class names": self.label_names, **digests, "mean and deviation": (self.mean, self.std)}

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
    with explained("", ValueError):
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
        return (_load_folder(name, args.dataset_config_name), None) if is_folder else _load_from_hub(args)
    except ValueError as error:  # what is wrong with the files
        raise UserError(f"the dataset {name} cannot be used: {error}") from error
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


def _load_folder(path, config_name):
    folder = folders.read_folder(path)
    saved, unlisted = folders.find_saved(folder)
    if unlisted:
        _warn(f"in {path} are not read, since dataset_dict.json does not list them: {shorten(unlisted)}")
    if saved or unlisted:
        # `datasets` would read all .arrow files, those of the folder's own cache too.
        loaded = {split: datasets.load_from_disk(place).with_format(None) for split, place in saved.items()}
        _check_class_names(loaded, {})
        return datasets.DatasetDict(loaded)
    found = folders.find_image_folder(folder) if config_name is None else None
    if found is None:
        builder = datasets.load_dataset_builder(folder.path, config_name, description=folder.digest)
        if unread := folders.find_unread(folder, builder.config.data_files or {}):
            _warn(f"in {path} are not read: {shorten(unread)}")
        return _read(builder)
    left_out = found.left_out
    if found.metadata:
        raw, unlisted = _read_with_metadata(folder, found)
        left_out = left_out + unlisted
    else:
        raw = folders.read_image_folder(folder, found)
    if left_out:
        _warn(f"in {path} are not read as images: {shorten(left_out)}")
    return raw


def _read_with_metadata(folder, found):
    """Return images with the labels of metadata files, and which images those do not list."""
    # Patterns would have `datasets` search the folder some 46 times, and find split names anywhere in a path.
    data_files = {
        split: datasets.data_files.DataFilesList(
            [folder.absolute(path) for path in images + found.metadata[split]], [(folder.digest,)]
        )
        for split, images in found.images.items()
    }
    raw = _read(
        datasets.load_dataset_builder(folder.path, data_files=data_files, description=folder.digest), check_files=False
    )
    listed = []
    for split, part in raw.items():
        column = next(name for name, feature in part.features.items() if isinstance(feature, datasets.Image))
        images = part.select_columns(column).cast_column(column, datasets.Image(decode=False))[:][column]
        listed += [(split, os.path.normpath(image["path"])) for image in images]
    folders.check_paths((split, path, path) for split, path in listed)
    known = {path for _, path in listed}
    return raw, [path for images in found.images.values() for path in images if folder.absolute(path) not in known]


def _load_from_hub(args):
    """Return a dataset of the Hub and its commit."""
    name, revision = args.dataset_name, args.dataset_revision
    if args.dataset_config_name is None and (downloaded := folders.download_image_folder(name, revision)):
        path, commit = downloaded
        return _load_folder(path, None), commit
    # What `datasets.load_dataset` does; its result does not know the commit.
    builder = datasets.load_dataset_builder(name, args.dataset_config_name, revision=revision)
    builder = of_revision(builder, name, args.dataset_config_name, revision)
    return _read(builder), builder.hash


def _read(builder, check_files=True):
    data_files = builder.config.data_files or {}
    if check_files:
        folders.check_data_files(data_files, USED_SPLITS)
    builder.download_and_prepare()
    raw = builder.as_dataset()
    _check_class_names(raw, data_files)
    return raw


def _check_class_names(raw, data_files):
    """
    Raise [`UserError`] if a class number means different classes in the splits, of which `datasets` reads the numbers
    alone where their files name the classes differently.
    """
    described = [(f"the split {split}", part.features) for split, part in raw.items() if split in USED_SPLITS]
    files = [file for split, found in data_files.items() if split in USED_SPLITS for file in found]
    described += [(os.path.basename(file), _stored_features(file)) for file in files]
    names = {}
    for place, features in described:
        for column, feature in features.items():
            if isinstance(feature, datasets.ClassLabel) and feature.names is not None:
                first, known = names.setdefault(column, (place, feature.names))
                if known != feature.names:
                    differing = [f"{a} or {b}" for a, b in zip(known, feature.names, strict=False) if a != b]
                    raise UserError(
                        f"the numbers in the column {column} mean other classes in {first} than in {place} "
                        f"({shorten(differing) or f'{len(known)} or {len(feature.names)} classes'}): "
                        "write all splits with the same list of classes"
                    )


def _stored_features(file):
    """Return the features that a parquet file describes, or nothing."""
    if remote := re.fullmatch(r"hf://datasets/([^@]+)@([^/]+)/(.+)", file):
        repo, commit, path = remote.groups()
        file = try_to_load_from_cache(repo, path, revision=commit, repo_type="dataset")
    if not isinstance(file, str) or not file.endswith(".parquet"):
        return {}
    try:
        return datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
    except (OSError, pyarrow.ArrowException, ValueError, TypeError, KeyError):  # `datasets` has read it all the same
        return {}


def _warn(text):
    if is_rank_0():
        logger.warning(text)


def split_dataset(raw, args, needed=SPLITS):
    """
    Return the needed splits as a dict of `datasets.Dataset` with columns image, label and row; the label names; and the
    superclass of each label and the superclasses' names, or None and None.
    """
    parts, names, superclass_of, superclass_names = _canonical(_find_splits(raw, needed), args)
    _check_classes(parts, names, needed)
    fraction = args.validation_fraction
    if "train" in parts and "validation" not in parts and fraction > 0:
        labels = np.array(parts["train"]["label"][:])
        size = max(1, round(fraction * len(labels)))
        if size >= len(labels):
            raise UserError(f"--validation_fraction {fraction} leaves no training images of {len(labels)}")
        held_out = stratified_sample(labels, size, args.split_seed, leave_one=True)
        if not len(held_out):
            raise UserError(
                f"--validation_fraction {fraction} can hold out no image, since each class would lose its only one: "
                "set it to 0, or add images"
            )
        kept = np.setdiff1d(np.arange(len(labels)), held_out)
        parts["validation"] = parts["train"].select(held_out)
        parts["train"] = parts["train"].select(kept)
    parts = {name: part for name, part in parts.items() if name in needed}
    for name, part in parts.items():
        limit = args.max_train_samples if name == "train" else args.max_eval_samples
        if limit is not None and limit < len(part):
            parts[name] = part.select(stratified_sample(np.array(part["label"][:]), limit, args.split_seed))
    _warn_of_missing_classes(parts, names)
    return parts, names, superclass_of, superclass_names


def _find_splits(raw, needed):
    """Return the splits train, test and validation. A lone validation split becomes the test split."""
    validation = next((name for name in VALIDATION_SPLITS if name in raw), None)
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
    # `datasets` fills a column that a split lacks with None, unless the splits were saved one by one.
    first, model = next(iter(splits.items()))
    columns = model.column_names
    image_column = _find_column("image", args.image_column_name, IMAGE_COLUMNS, columns)
    label_column = _find_column("label", args.label_column_name, LABEL_COLUMNS, columns)
    superclasses = [name for name in SUPERCLASS_COLUMNS if name in columns and name != label_column]
    superclass = next((name for name in superclasses if _is_of_classes(model.features[name])), None)
    for name, part in splits.items():
        for column in (image_column, label_column):
            if column not in part.column_names:
                raise UserError(f"the split {name} has no column {column}, which {first} has")
        if _kind_of_labels(part.features[label_column]) != _kind_of_labels(model.features[label_column]):
            raise UserError(
                f"the labels of the split {name} are of another type than those of {first}: write both alike"
            )
    labels = _label_names(splits, label_column)
    names = [str(label) for label in labels]
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
        numbers = _number_labels(part["label"][:], part.features["label"], labels, name)
        # Casting would copy the images.
        splits[name] = part.remove_columns("label").add_column("label", numbers)
    superclass_of, superclass_names = _superclasses(splits[first], len(names)) if superclass else (None, None)
    return splits, names, superclass_of, superclass_names


def _find_column(kind, given, candidates, columns):
    flag, listed = f"--{kind}_column_name", ", ".join(columns)
    if given is not None and given not in columns:
        raise UserError(f"{flag} {given}: there is no such column; the dataset has: {listed}")
    found = given or next((name for name in candidates if name in columns), None)
    if found is None:
        raise UserError(f"found no {kind} column among: {listed}; name it with {flag}")
    return found


def _label_names(splits, column):
    """Return the names of the classes: as they are declared, or the distinct labels, strings or integers from 0 up."""
    feature = next(iter(splits.values())).features[column]
    if not _is_of_classes(feature):
        kind = getattr(feature, "dtype", None) or type(feature).__name__
        raise UserError(
            f"the column {column} holds no class labels, which are integers or strings, but {kind}: convert it, or "
            "name the right one with --label_column_name"
        )
    if isinstance(feature, datasets.ClassLabel):
        names = feature.names
    else:
        values = {value for part in splits.values() for value in part.unique(column)}
        if any(value is None or (isinstance(value, str) and not value.strip()) for value in values):
            raise UserError(
                f"the column {column} is empty for some images: remove them or label them; words such as None or NA "
                "are read as empty from a CSV file"
            )
        names = sorted(value for value in values if isinstance(value, str) or value >= 0)
    if not names:
        raise UserError(f"the column {column} names no class; name the right one with --label_column_name")
    if len(names) > MAX_LABELS:
        raise UserError(
            f"the column {column} has {len(names):,} classes, and more than {MAX_LABELS:,} are not supported: name the "
            "right one with --label_column_name"
        )
    return names


def _kind_of_labels(feature):
    return isinstance(feature, datasets.ClassLabel), "string" in (getattr(feature, "dtype", None) or "")


def _is_of_classes(feature):
    dtype = feature.dtype if isinstance(feature, (datasets.Value, datasets.ClassLabel)) else ""
    return "int" in dtype or "string" in dtype


def _number_labels(labels, feature, names, split_name):
    """Return labels as class numbers (n,)."""
    if set(labels) == {None}:
        raise UserError(f"no image of split {split_name} has a label")
    known = range(len(names)) if isinstance(feature, datasets.ClassLabel) else names
    number_of = {label: number for number, label in enumerate(known)}
    for row, label in enumerate(labels):
        if label not in number_of:
            raise UserError(
                f"image {row} of split {split_name} has the label {label}, outside 0 to {known[-1]}: "
                "remove it, or name another column with --label_column_name"
            )
    return np.array([number_of[label] for label in labels])


def _check_classes(parts, names, needed):
    """
    Raise [`UserError`] if there is no second class to tell one from, or a class is written differently in the splits.
    """
    used = {split: set(parts[split]["label"][:]) for split in ("train", "test") if split in parts}
    if len(names) < 2 or ("train" in needed and len(used["train"]) < 2):
        alone = names[next(iter(used.get("train", [0])))]
        kind = "training images" if "train" in used else "images"
        raise UserError(f"all {kind} are of one class, {alone}: there must be two or more to tell apart")
    alike = defaultdict(set)
    for number, name in enumerate(names):
        alike[re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold().strip())].add(number)
    for same in alike.values():
        if any(same & labels not in (same, set()) for labels in used.values()):
            spellings = " and ".join(repr(names[number]) for number in sorted(same))
            raise UserError(f"{spellings} look like one class, and some split lacks one of them: rename or merge them")


def _warn_of_missing_classes(parts, names):
    for split, kind in (("train", "training"), ("test", "test")):
        used = set(parts[split]["label"][:]) if split in parts else range(len(names))
        if missing := [name for number, name in enumerate(names) if number not in used]:
            have = "1 class has" if len(missing) == 1 else f"{len(missing):,} classes have"
            _warn(f"{have} no {kind} image: {shorten(missing)}")


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


def stratified_sample(labels, size, seed, leave_one=False):
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
