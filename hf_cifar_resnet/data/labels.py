"""The columns of images and labels, and the classes that the labels name."""

import csv
import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
from huggingface_hub import try_to_load_from_cache

from ..errors import shorten
from ..processes import is_rank_0
from .arguments import DataArguments

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")
SUPERCLASS_COLUMNS = ("superclass", "coarse_label")
MAX_LABELS = 10_000  # whose confusion matrix takes 800 MB

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labels:
    """
    What the class numbers of a dataset mean.

    Attributes:
        names: the name of each class number.
        superclass_of: the superclass of each class number, int (num_labels,), or None.
        superclass_names: the name of each superclass number, or None.
    """

    names: list[str]
    superclass_of: np.ndarray | None = None
    superclass_names: list[str] | None = None


def read_labels(
    splits: Mapping[str, datasets.Dataset], args: DataArguments
) -> tuple[dict[str, datasets.Dataset], Labels]:
    """
    Return the splits with the columns image, label (a class number), row (the number of the image in its split) and
    superclass, if there is one; and what the labels mean. Raises `ValueError` if the columns or labels do not fit.
    """
    # `datasets` fills a column that a split lacks with None, unless the splits were saved one by one.
    first, model = next(iter(splits.items()))
    columns = model.column_names
    image_column = _find_column("image", args.image_column_name, IMAGE_COLUMNS, columns)
    label_column = _find_column("label", args.label_column_name, LABEL_COLUMNS, columns)
    superclasses = [name for name in SUPERCLASS_COLUMNS if name in columns and name != label_column]
    superclass = next((name for name in superclasses if _is_of_classes(model.features[name])), None)
    for split, part in splits.items():
        for column in (image_column, label_column):
            if column not in part.column_names:
                raise ValueError(f"the split {split} has no column {column}, which {first} has")
        if _kind_of_labels(part.features[label_column]) != _kind_of_labels(model.features[label_column]):
            raise ValueError(
                f"the labels of the split {split} are of another type than those of {first}: write both alike"
            )
        _check_images(part, image_column)
    labels = _find_classes(splits, label_column)
    new_names = {image_column: "image", label_column: "label"}
    if superclass is not None:
        new_names[superclass] = "superclass"
    numbered = {}
    for split, part in splits.items():
        part = part.select_columns([column for column in new_names if column in part.column_names])
        part = part.rename_columns({old: new_names[old] for old in part.column_names if old != new_names[old]})
        part = part.add_column("row", list(range(len(part))))
        numbers = _number_labels(part["label"][:], part.features["label"], labels, split)
        # Casting would copy the images.
        numbered[split] = part.remove_columns("label").add_column("label", numbers)
    names = [str(label) for label in labels]
    if superclass is None:
        return numbered, Labels(names)
    return numbered, Labels(names, *_find_superclasses(numbered[first], len(names)))


def _find_column(kind: str, given: str | None, candidates: Sequence[str], columns: Sequence[str]) -> str:
    argument, listed = f"{kind}_column_name", ", ".join(columns)
    if given is not None and given not in columns:
        raise ValueError(f"{argument} {given}: there is no such column; the dataset has: {listed}")
    found = given or next((name for name in candidates if name in columns), None)
    if found is None:
        raise ValueError(f"found no {kind} column among: {listed}; name it with {argument}")
    return found


def _check_images(part: datasets.Dataset, column: str) -> None:
    feature = part.features[column]
    if not isinstance(feature, datasets.Image):
        message = f"the column {column} holds no images; name the right one with image_column_name"
        if getattr(feature, "dtype", None) in ("binary", "large_binary"):
            message += "; if its bytes are image files, write it with the feature datasets.Image()"
        raise ValueError(message)


def _find_classes(splits: Mapping[str, datasets.Dataset], column: str) -> list[Any]:
    """Return the classes in order: as they are declared, or the distinct labels, strings or integers from 0 up."""
    feature = next(iter(splits.values())).features[column]
    if not _is_of_classes(feature):
        kind = getattr(feature, "dtype", None) or type(feature).__name__
        raise ValueError(
            f"the column {column} holds no class labels, which are integers or strings, but {kind}: convert it, or "
            "name the right one with label_column_name"
        )
    if isinstance(feature, datasets.ClassLabel):
        names = feature.names
    else:
        values = {value for part in splits.values() for value in part.unique(column)}
        if any(value is None or (isinstance(value, str) and not value.strip()) for value in values):
            raise ValueError(
                f"the column {column} is empty for some images: remove them or label them; words such as None or NA "
                "are read as empty from a CSV file"
            )
        names = sorted(value for value in values if isinstance(value, str) or value >= 0)
    if not names:
        raise ValueError(f"the column {column} names no class; name the right one with label_column_name")
    if len(names) > MAX_LABELS:
        raise ValueError(
            f"the column {column} has {len(names):,} classes, and more than {MAX_LABELS:,} are not supported: name the "
            "right one with label_column_name"
        )
    return names


def _kind_of_labels(feature: Any) -> tuple[bool, bool]:
    return isinstance(feature, datasets.ClassLabel), "string" in (getattr(feature, "dtype", None) or "")


def _is_of_classes(feature: Any) -> bool:
    dtype = feature.dtype if isinstance(feature, (datasets.Value, datasets.ClassLabel)) else ""
    return "int" in dtype or "string" in dtype


def _number_labels(labels: list[Any], feature: Any, classes: list[Any], split: str) -> np.ndarray:
    """Return labels as class numbers (n,)."""
    if set(labels) == {None}:
        raise ValueError(f"no image of split {split} has a label")
    known = range(len(classes)) if isinstance(feature, datasets.ClassLabel) else classes
    number_of = {label: number for number, label in enumerate(known)}
    for row, label in enumerate(labels):
        if label not in number_of:
            raise ValueError(
                f"image {row} of split {split} has the label {label}, outside 0 to {known[-1]}: "
                "remove it, or name another column with label_column_name"
            )
    return np.array([number_of[label] for label in labels])


def _find_superclasses(part: datasets.Dataset, num_labels: int) -> tuple[np.ndarray | None, list[str] | None]:
    """Return the superclass number of each label and the superclasses' names, or None and None if not unique."""
    pairs = set(zip(part["label"][:], part["superclass"][:], strict=True))
    if len(pairs) != num_labels or {label for label, _ in pairs} != set(range(num_labels)):
        return None, None
    groups = [group for _, group in sorted(pairs)]
    feature = part.features["superclass"]
    if isinstance(feature, datasets.ClassLabel):
        return np.array(groups), feature.names
    names = sorted(set(groups), key=str)
    return np.array([names.index(group) for group in groups]), [str(name) for name in names]


# Whether a label means the same everywhere


def check_class_names(
    raw: Mapping[str, datasets.Dataset], splits: Collection[str], data_files: Mapping[str, Iterable[str]]
) -> None:
    """
    Raise `ValueError` if a class number means different classes in some splits, of which `datasets` reads the numbers
    alone where their files name the classes differently.
    """
    described = [(f"the split {split}", part.features) for split, part in raw.items() if split in splits]
    files = [file for split, found in data_files.items() if split in splits for file in found]
    described += [(os.path.basename(file), _stored_features(file)) for file in files]
    names: dict[str, tuple[str, list[str]]] = {}
    for place, features in described:
        for column, feature in features.items():
            if isinstance(feature, datasets.ClassLabel) and feature.names is not None:
                first, known = names.setdefault(column, (place, feature.names))
                if known != feature.names:
                    differing = [f"{a} or {b}" for a, b in zip(known, feature.names, strict=False) if a != b]
                    raise ValueError(
                        f"the numbers in the column {column} mean other classes in {first} than in {place} "
                        f"({shorten(differing) or f'{len(known)} or {len(feature.names)} classes'}): "
                        "write all splits with the same list of classes"
                    )


def _stored_features(file: str) -> Mapping[str, Any]:
    """Return the features that a parquet file describes, or nothing."""
    path: Any = file
    if remote := re.fullmatch(r"hf://datasets/([^@]+)@([^/]+)/(.+)", file):
        repo, commit, name = remote.groups()
        path = try_to_load_from_cache(repo, name, revision=commit, repo_type="dataset")
    if not isinstance(path, str) or not path.endswith(".parquet"):
        return {}
    try:
        return datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(path))
    except (OSError, pyarrow.ArrowException, ValueError, TypeError, KeyError):  # `datasets` has read it all the same
        return {}


def check_numbers(files: Iterable[str], column: str | None) -> None:
    """
    Raise `ValueError` if CSV files write one number in two ways in a column of labels, such as 007 and 7, which
    `datasets` reads as one class.

    Args:
        files: paths of CSV files.
        column: the name of the label column, if it was given.
    """
    candidates = LABEL_COLUMNS if column is None else (column,)
    written: dict[tuple[str, int], str] = {}
    for path in files:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                for name in candidates:
                    text = (row.get(name) or "").strip()
                    if re.fullmatch(r"[+-]?\d+", text):
                        known = written.setdefault((name, int(text)), text)
                        if known != text:
                            raise ValueError(
                                f"{path}: the labels {known} and {text} in the column {name} would be read as one "
                                "number: write each class in one way"
                            )


def check_classes(parts: Mapping[str, datasets.Dataset], names: Sequence[str], needed: Collection[str]) -> None:
    """
    Raise `ValueError` if there is no second class to train with, or a class is written differently in the splits. A
    model can be scored on images of one class.
    """
    used = {split: set(parts[split]["label"][:]) for split in ("train", "test") if split in parts}
    if "train" in needed and len(used["train"]) < 2:
        alone = names[next(iter(used["train"]))]
        raise ValueError(f"all training images are of one class, {alone}: there must be two or more to tell apart")
    alike: dict[str, set[int]] = defaultdict(set)
    for number, name in enumerate(names):
        alike[re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold().strip())].add(number)
    for same in alike.values():
        if any(same & labels not in (same, set()) for labels in used.values()):
            spellings = " and ".join(repr(names[number]) for number in sorted(same))
            raise ValueError(f"{spellings} look like one class, and some split lacks one of them: rename or merge them")


def warn_of_missing_classes(parts: Mapping[str, datasets.Dataset], names: Sequence[str]) -> None:
    """Log which classes have no training or no test image."""
    for split, kind in (("train", "training"), ("test", "test")):
        used = set(parts[split]["label"][:]) if split in parts else range(len(names))
        missing = [name for number, name in enumerate(names) if number not in used]
        if missing and is_rank_0():
            have = "1 class has" if len(missing) == 1 else f"{len(missing):,} classes have"
            logger.warning("%s no %s image: %s", have, kind, shorten(missing))
