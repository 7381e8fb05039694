"""What a folder of a dataset holds: its files, and for a folder of images the split and the class of each."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import datasets

from ..documents import read_json
from ..errors import explained, shorten
from .files import NAMED_BY_CONTENT, check_paths
from .hub import read_card
from .images import is_hidden_name, is_image_name

# As `datasets` knows them, in the order of preference.
SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
LAYOUT = "a folder of images is laid out as split/class/image, such as train/cat/1.png"
_TABLE_VERSION = 1  # of what `read_image_folder` makes, to be raised when it makes another, which has its own cache
_TABLES, _ARCHIVES = (".parquet", ".arrow", ".lance"), (".tar", ".zip", ".h5", ".hdf5")


@dataclass(frozen=True)
class Folder:
    """
    A folder's visible files, found in one walk that follows links.

    Attributes:
        path (`str`): absolute.
        files (`dict`): the real path of each file, by its path in the folder, in the order of these. Among them is a
            folder that holds nothing, as its path and a slash.
        digest (`str`): of the names, sizes and times of all files.
    """

    path: str
    files: Mapping[str, str]
    digest: str

    def absolute(self, path: str) -> str:
        return os.path.join(self.path, *path.split("/"))


@dataclass(frozen=True)
class ImageFolder:
    """
    Images in the folders of splits.

    Attributes:
        images (`dict`): the images of each split, as paths in the folder.
        classes (`dict`): the class of each image, by its path; empty where metadata files are to give the labels.
        metadata (`dict`): the metadata files of each split.
        left_out (`list`): files that are no images of a split, and empty folders.
    """

    images: Mapping[str, list[str]]
    classes: Mapping[str, str]
    metadata: Mapping[str, list[str]]
    left_out: list[str]


def read_folder(path: str) -> Folder:
    """Return a folder's files."""
    root = os.path.abspath(path)
    found = sorted(_scan(root, "", frozenset()))
    # `datasets` uses modification times alone, which copying preserves, and would take an older table from its cache.
    digest = hashlib.sha256(repr((root, [(name, stat) for name, _, stat in found])).encode(errors="surrogatepass"))
    return Folder(root, {name: real for name, real, _ in found}, digest.hexdigest()[:32])


def _scan(folder: str, prefix: str, above: frozenset[str]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield the path, the real path, and the size and times of each visible file below a folder."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that it lies in
        return
    with os.scandir(folder) as scanned:
        entries = [entry for entry in scanned if not is_hidden_name(entry.name)]
    if not entries and prefix:
        yield prefix, real, ()
    for entry in entries:
        if entry.is_dir():
            yield from _scan(entry.path, f"{prefix}{entry.name}/", above | {real})
            continue
        target = os.path.join(real, entry.name)
        if entry.is_symlink() and not NAMED_BY_CONTENT.search(os.path.basename(os.path.realpath(target))):
            target = os.path.realpath(target)
        try:
            stat = entry.stat()
        except OSError:  # a link to nothing, which decoding names
            stat = entry.stat(follow_symlinks=False)
        yield prefix + entry.name, target, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def find_saved(folder: Folder) -> tuple[dict[str, str], list[str]]:
    """
    Return the folders of datasets that `Dataset.save_to_disk` has written, by the names of their splits; and those that
    the `dataset_dict.json` above them does not list, such as splits of an earlier dataset in the same place. Raises
    `ValueError` if a `dataset_dict.json` is damaged, or there are several datasets.
    """
    parents = [name.removesuffix("state.json") for name in folder.files if name.split("/")[-1] == "state.json"]
    saved = [parent for parent in parents if f"{parent}dataset_info.json" in folder.files]
    unlisted = []
    for path in (path for path in folder.files if PurePath(path).name == "dataset_dict.json"):
        above, splits = path.removesuffix("dataset_dict.json"), _read_split_names(folder.absolute(path))
        unlisted += [parent for parent in saved if parent.startswith(above) and parent[len(above) : -1] not in splits]
    saved = [parent for parent in saved if parent not in unlisted]
    if len({PurePath(parent).name for parent in saved}) < len(saved):
        raise ValueError(f"{folder.path} holds several saved datasets, {shorten(saved)}: give the folder of one")
    return {PurePath(parent).name or "train": folder.absolute(parent) for parent in saved}, unlisted


def _read_split_names(path: str) -> list[str]:
    with explained(f"{path} cannot be read", OSError, ValueError):
        names = read_json(path).get("splits")
        if not isinstance(names, list):
            raise ValueError('it must list the names of the "splits"')
    return names


def find_image_folder(folder: Folder) -> ImageFolder | None:
    """
    Return the images of a folder by split and class, or None if it does not hold images in folders of splits. Raises
    `ValueError` if the split or the class of an image is unclear, or two paths lead to one file.
    """
    split_folders = find_split_folders(folder.files)
    card = _read_card(folder)
    if not split_folders or "configs" in card:
        return None
    images: dict[str, list[str]] = {split: [] for split in split_folders}
    metadata: dict[str, list[str]] = defaultdict(list)
    left_out: list[str] = []
    for path in folder.files:
        split = next((split for split, below in split_folders.items() if path.startswith(f"{below}/")), None)
        if split and is_image_name(path):
            images[split].append(path)
        elif split and PurePath(path).name in METADATA_FILES:
            metadata[split].append(path)
        elif split or is_image_name(path) or _is_table(path, _TABLES + _ARCHIVES):
            left_out.append(path)
    classes = {}
    if metadata and "dataset_info" in card:  # may name the classes
        return None
    if metadata and (without := [split for split in images if split not in metadata]):
        raise ValueError(
            f"{shorten(sum(metadata.values(), []))} gives labels, but the split {without[0]} has no such file: "
            "add it, or remove the others"
        )
    if not metadata:
        below = {path: path.removeprefix(f"{split_folders[split]}/") for split in images for path in images[split]}
        if misplaced := [path for path, rest in below.items() if rest.count("/") != 1]:
            of_all = [path for path in folder.files if PurePath(path).name in METADATA_FILES]
            labels = f"; labels are read from a {of_all[0]} in the folder of each split" if of_all else ""
            raise ValueError(f"{LAYOUT}: move or remove what lies elsewhere, which is {shorten(misplaced)}{labels}")
        classes = {path: rest.split("/")[0] for path, rest in below.items()}
    files = [(split, path, folder.files[path]) for split in images for path in images[split]]
    if unnamed := [path for _, path, _ in files if not _is_utf8(path)]:
        raise ValueError(f"the names of {shorten(unnamed)} are not UTF-8, as old archives leave them: rename them")
    check_paths(files)
    return ImageFolder(images, classes, metadata, left_out)


def find_split_folders(paths: Collection[str]) -> dict[str, str]:
    """
    Return the folder of each split, or nothing if there are no images in any, or tables that are read instead.

    The folders of splits are those of the topmost level that has one of a split's name, since classes may be named like
    splits too. Raises `ValueError` if two folders could be one split.
    """
    parents = [path.split("/")[:-1] for path in paths if is_image_name(path)]
    depth = _find_split_depth(parents)
    if depth is None:
        return {}
    found: dict[str, set[str]] = defaultdict(set)
    for folder in {tuple(parts[: depth + 1]) for parts in parents if len(parts) > depth}:
        if split := _split_of(folder[-1]):
            found[split].add("/".join(folder))
    folders = {}
    for split in [split for split in SPLIT_NAMES if split in found]:
        exact = {folder for folder in found[split] if folder.split("/")[-1].lower() in SPLIT_NAMES[split]}
        folders[split], *others = sorted(exact or found[split])
        if others:
            raise ValueError(
                f"the folders {', '.join([folders[split], *others])} could each be the split {split}: rename or move "
                "all but one"
            )
        folders[split] = _without_repetition(folders[split], ["/".join(parts) for parts in parents])
    for path in paths:
        is_shard = re.match(r"data/[^/]+-\d{5}-of-\d{5}", path) and _is_table(path, _TABLES + _ARCHIVES)
        if is_shard or (_is_table(path, _TABLES) and any(map(_split_of, path.split("/")[:-1]))):
            return {}
    return folders


def _without_repetition(folder: str, parents: list[str]) -> str:
    """Return `train/train` for `train` if it holds nothing but that folder of classes, as unpacking may leave it."""
    below = f"{folder}/{PurePath(folder).name}"
    inside = [parent for parent in parents if parent.startswith(f"{folder}/")]
    return below if all(parent.startswith(f"{below}/") for parent in inside) and inside else folder


def _read_card(folder: Folder) -> dict[str, Any]:
    return read_card(folder.absolute("README.md")) if "README.md" in folder.files else {}


def find_unread(folder: Folder, data_files: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the tables and archives in a folder that are not among those that are read, if its README names none."""
    if "configs" in _read_card(folder):
        return []
    read = {os.path.realpath(file) for files in data_files.values() for file in files}
    tables = [path for path in folder.files if _is_table(path, _TABLES + _ARCHIVES)]
    return [path for path in tables if os.path.realpath(folder.absolute(path)) not in read]


def _is_table(path: str, endings: tuple[str, ...]) -> bool:
    return path.lower().endswith(endings) and PurePath(path).name not in METADATA_FILES


def _is_utf8(path: str) -> bool:
    try:
        return bool(path.encode())
    except UnicodeEncodeError:
        return False


def _find_split_depth(parents: Sequence[Sequence[str]]) -> int | None:
    """Return the topmost level at which a folder has the name of a split, of paths in parts."""
    first = None
    for depth in range(max(map(len, parents), default=0)):
        names = {parts[depth] for parts in parents if len(parts) > depth}
        splits = {_split_of(name) for name in names} - {None}
        if len(splits) > 1 or any(name.lower() in words for name in names for words in SPLIT_NAMES.values()):
            return depth
        if splits and first is None:
            first = depth
    return first


def _split_of(name: str) -> str | None:
    """Return the split that a folder's name names, as a whole or as one of its words, or None."""
    words = set(re.split(r"[-._ 0-9]+", name.lower()))
    found = [split for split, names in SPLIT_NAMES.items() if words.intersection(names)]
    return found[0] if len(found) == 1 else None


def read_image_folder(folder: Folder, found: ImageFolder) -> datasets.DatasetDict:
    """Return images with the labels of their class folders, as `datasets` reads them but in a fraction of the time."""
    names = sorted(set(found.classes.values()))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    number = {name: i for i, name in enumerate(names)}

    def rows(split: str) -> Iterator[dict[str, Any]]:
        for path in found.images[split]:
            yield {"image": folder.absolute(path), "label": number[found.classes[path]]}

    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_generator(
                rows,
                features=features,
                gen_kwargs={"split": split},
                split=datasets.NamedSplit(split),
                fingerprint=f"{_TABLE_VERSION}-{folder.digest}-{split}",
            )
            for split in found.images
        }
    )
