"""What a folder of a dataset holds: its files, and for a folder of images the split and the class of each."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path, PurePath

import datasets
from huggingface_hub import DatasetCard, HfApi, get_cached_repo_tree, hf_hub_download, snapshot_download

from ..documents import read_json
from ..errors import UserError, one_line, shorten
from .images import is_hidden_name, is_image_name

# As `datasets` knows them, in the order of preference.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
LAYOUT = "a folder of images is laid out as split/class/image, such as train/cat/1.png"
_TABLE_VERSION = 1  # of what `read_image_folder` makes, to be raised when it makes another, which has its own cache
_TABLES, _ARCHIVES = (".parquet", ".arrow", ".lance"), (".tar", ".zip", ".h5", ".hdf5")
_SHARD = re.compile(r"^(.+)-(\d{5})-of-(\d{5})(?=\D|$)")
# Git-annex, DVC and the Hub's cache link equal files of different names to one that is named by its content.
_NAMED_BY_CONTENT = re.compile(r"[0-9a-f]{30}")


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


def _scan(folder: str, prefix: str, above: frozenset) -> Iterator[tuple[str, str, tuple]]:
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
        if entry.is_symlink() and not _NAMED_BY_CONTENT.search(os.path.basename(os.path.realpath(target))):
            target = os.path.realpath(target)
        try:
            stat = entry.stat()
        except OSError:  # a link to nothing, which decoding names
            stat = entry.stat(follow_symlinks=False)
        yield prefix + entry.name, target, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def find_saved(folder: Folder) -> tuple[dict[str, str], list[str]]:
    """
    Return the folders of datasets that `Dataset.save_to_disk` has written, by the names of their splits; and those that
    the `dataset_dict.json` above them does not list, such as splits of an earlier dataset in the same place.
    """
    parents = [name.removesuffix("state.json") for name in folder.files if name.split("/")[-1] == "state.json"]
    saved = [parent for parent in parents if f"{parent}dataset_info.json" in folder.files]
    unlisted = []
    for path in (path for path in folder.files if PurePath(path).name == "dataset_dict.json"):
        above, splits = path.removesuffix("dataset_dict.json"), read_json(folder.absolute(path)).get("splits", [])
        unlisted += [parent for parent in saved if parent.startswith(above) and parent[len(above) : -1] not in splits]
    saved = [parent for parent in saved if parent not in unlisted]
    if len({PurePath(parent).name for parent in saved}) < len(saved):
        raise UserError(f"it holds several saved datasets, {shorten(saved)}: give the folder of one")
    return {PurePath(parent).name or "train": folder.absolute(parent) for parent in saved}, unlisted


def find_image_folder(folder: Folder) -> ImageFolder | None:
    """
    Return the images of a folder by split and class, or None if it does not hold images in folders of splits. Raises
    [`UserError`] if the split or the class of an image is unclear, or two paths lead to one file.
    """
    split_folders = find_split_folders(folder.files)
    card = _read_card(folder.files, folder.absolute)
    if not split_folders or "configs" in card:
        return None
    images, metadata, left_out = {split: [] for split in split_folders}, defaultdict(list), []
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
        raise UserError(
            f"{shorten(sum(metadata.values(), []))} gives labels, but the split {without[0]} has no such file: "
            "add it, or remove the others"
        )
    if not metadata:
        below = {path: path.removeprefix(f"{split_folders[split]}/") for split in images for path in images[split]}
        if misplaced := [path for path, rest in below.items() if rest.count("/") != 1]:
            of_all = [path for path in folder.files if PurePath(path).name in METADATA_FILES]
            labels = f"; labels are read from a {of_all[0]} in the folder of each split" if of_all else ""
            raise UserError(f"{LAYOUT}: move or remove what lies elsewhere, which is {shorten(misplaced)}{labels}")
        classes = {path: rest.split("/")[0] for path, rest in below.items()}
    files = [(split, path, folder.files[path]) for split in images for path in images[split]]
    if unnamed := [path for _, path, _ in files if not _is_utf8(path)]:
        raise UserError(f"the names of {shorten(unnamed)} are not UTF-8, as old archives leave them: rename them")
    check_paths(files)
    return ImageFolder(images, classes, metadata, left_out)


def find_split_folders(paths: Collection[str]) -> dict[str, str]:
    """
    Return the folder of each split, or nothing if there are no images in any, or tables that are read instead.

    The folders of splits are those of the topmost level that has one of a split's name, since classes may be named like
    splits too. Raises [`UserError`] if two folders could be one split.
    """
    parents = [path.split("/")[:-1] for path in paths if is_image_name(path)]
    depth = _find_split_depth(parents)
    if depth is None:
        return {}
    found = defaultdict(set)
    for folder in {tuple(parts[: depth + 1]) for parts in parents if len(parts) > depth}:
        if split := _split_of(folder[-1]):
            found[split].add("/".join(folder))
    folders = {}
    for split in filter(found.get, SPLIT_NAMES):
        exact = {folder for folder in found[split] if folder.split("/")[-1].lower() in SPLIT_NAMES[split]}
        folders[split], *others = sorted(exact or found[split])
        if others:
            raise UserError(
                f"the folders {', '.join([folders[split], *others])} could each be the split {split}: rename or move "
                "all but one"
            )
        folders[split] = _without_repetition(folders[split], ["/".join(parts) for parts in parents])
    for path in paths:
        is_shard = re.match(r"data/[^/]+-\d{5}-of-\d{5}", path) and _is_table(path, _TABLES + _ARCHIVES)
        if is_shard or (_is_table(path, _TABLES) and any(map(_split_of, path.split("/")[:-1]))):
            return {}
    return folders


def _without_repetition(folder, parents):
    """Return `train/train` for `train` if it holds nothing but that folder of classes, as unpacking may leave it."""
    below = f"{folder}/{PurePath(folder).name}"
    inside = [parent for parent in parents if parent.startswith(f"{folder}/")]
    return below if all(parent.startswith(f"{below}/") for parent in inside) and inside else folder


def find_unread(folder: Folder, data_files: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the tables and archives in a folder that are not among those that are read, if its README names none."""
    if "configs" in _read_card(folder.files, folder.absolute):
        return []
    read = {os.path.realpath(file) for files in data_files.values() for file in files}
    tables = [path for path in folder.files if _is_table(path, _TABLES + _ARCHIVES)]
    return [path for path in tables if os.path.realpath(folder.absolute(path)) not in read]


def _is_table(path, endings):
    return path.lower().endswith(endings) and PurePath(path).name not in METADATA_FILES


def _is_utf8(path):
    try:
        return bool(path.encode())
    except UnicodeEncodeError:
        return False


def _find_split_depth(parents):
    first = None
    for depth in range(max(map(len, parents), default=0)):
        names = {parts[depth] for parts in parents if len(parts) > depth}
        splits = {_split_of(name) for name in names} - {None}
        if len(splits) > 1 or any(name.lower() in words for name in names for words in SPLIT_NAMES.values()):
            return depth
        if splits and first is None:
            first = depth
    return first


def _split_of(name):
    """Return the split that a folder's name names, as a whole or as one of its words, or None."""
    words = set(re.split(r"[-._ 0-9]+", name.lower()))
    found = [split for split, names in SPLIT_NAMES.items() if words.intersection(names)]
    return found[0] if len(found) == 1 else None


def _read_card(paths, find):
    """Return the metadata in the README, where there is one; `find` gives a file's path on this machine."""
    if "README.md" not in paths:
        return {}
    text = Path(find("README.md")).read_text(encoding="utf-8", errors="replace")
    if not text.lstrip().startswith("---"):  # of which huggingface_hub would warn
        return {}
    try:
        return DatasetCard(text, ignore_metadata_errors=True).data.to_dict()
    except Exception as error:  # of YAML
        raise UserError(f"the metadata at the top of its README.md are not valid YAML: {one_line(error)}") from error


def read_image_folder(folder: Folder, found: ImageFolder) -> datasets.DatasetDict:
    """Return images with the labels of their class folders, as `datasets` reads them but in a fraction of the time."""
    names = sorted(set(found.classes.values()))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    number = {name: i for i, name in enumerate(names)}

    def rows(split):
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


def download_image_folder(name: str, revision: str | None) -> tuple[str, str] | None:
    """
    Download a dataset of the Hub that holds images in folders of splits, and return its local folder and its commit.
    Returns None for any other dataset. Without network, a complete copy in the cache is taken.
    """
    options = {"repo_id": name, "repo_type": "dataset", "revision": revision}
    try:
        paths = HfApi().list_repo_files(**options)
    except Exception:  # `datasets` says what it is, if there is no copy in the cache
        try:  # what is there need not be all: a file that was asked for alone, or an interrupted download
            paths = [file.path for file in get_cached_repo_tree(**options)]
        except Exception:
            return None
        options["local_files_only"] = True
    visible = [path for path in paths if not any(map(is_hidden_name, path.split("/")))]
    split_folders = find_split_folders(visible)
    has_metadata = any(PurePath(path).name in METADATA_FILES for path in visible)
    if not split_folders or has_metadata:
        return None
    if "configs" in _read_card(visible, lambda file: hf_hub_download(**options, filename=file)):
        return None
    patterns = ["README.md", *(f"{escape(folder)}/*" for folder in split_folders.values())]
    path = snapshot_download(**options, allow_patterns=patterns)  # by its revision, which it then finds offline
    return path, PurePath(path).name


# Whether each file is there, once


def check_paths(files: Iterable[tuple[str, str, str]]) -> None:
    """Raise [`UserError`] if of files, each a split, a path and a real path, one is in two splits or twice in one."""
    first = {}
    for split, path, real in files:
        if real in first:
            other_split, other = first[real]
            where = f"twice in {split}" if split == other_split else f"in the splits {other_split} and {split}"
            link = "" if path == other else f", also as {path}"
            raise UserError(f"the file {other} is {where}{link}: an image belongs to one split, once")
        first[real] = split, path


def check_data_files(data_files: Mapping[str, Iterable[str]], splits: Collection[str]) -> None:
    """
    Raise [`UserError`] if of the files that `datasets` has found for some splits one is in two or twice in one, also as
    a copy such as `train (1).parquet`, or a shard is missing.
    """
    used = {split: list(files) for split, files in data_files.items() if split in splits}
    check_paths((split, file, _real_path(file)) for split, files in used.items() for file in files)
    for split, files in used.items():
        shards, others = defaultdict(list), []
        for file in files:
            folder, _, name = file.replace("\\", "/").rpartition("/")
            if parts := _SHARD.match(name):
                shards[folder, parts[1], int(parts[3])].append(int(parts[2]))
            else:
                others.append((folder, name.split(".")[0], file))
        for (_, stem, count), numbers in shards.items():
            if missing := [f"{stem}-{i:05}-of-{count:05}" for i in range(count) if i not in numbers]:
                raise UserError(f"files of the split {split} are missing: {shorten(missing)}. Add all {count}")
        versions = [(folder, stem) for folder, stem, _ in shards]
        versions += {place[:2] for place in others if place[:2] in versions}
        if len(set(versions)) < len(versions) or any(len(set(found)) < len(found) for found in shards.values()):
            raise UserError(f"the split {split} has the files of two versions, {shorten(files)}: remove one of them")
        _check_copies(split, [file for *_, file in others if "://" not in file and not is_image_name(file)])


def _check_copies(split, files):
    first = {}
    sizes = Counter(map(os.path.getsize, files))
    for file in files:
        if sizes[os.path.getsize(file)] > 1:
            with open(file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").digest()
            if digest in first:
                raise UserError(f"the files {first[digest]} and {file} of the split {split} are equal: remove one")
            first[digest] = file


def _real_path(file):
    real = file if "://" in file else os.path.realpath(file)
    return file if _NAMED_BY_CONTENT.search(os.path.basename(real)) else real
