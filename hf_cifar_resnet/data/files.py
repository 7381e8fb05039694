"""Whether each file of a dataset is there, and belongs to one split, once."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping

from ..errors import shorten
from .images import is_image_name

_SHARD = re.compile(r"^(.+)-(\d{5})-of-(\d{5})(?=\D|$)")
# Git-annex, DVC and the Hub's cache link equal files of different names to one that is named by its content.
NAMED_BY_CONTENT = re.compile(r"[0-9a-f]{30}")


def check_paths(files: Iterable[tuple[str, str, str]]) -> None:
    """Raise `ValueError` if of files, each a split, a path and a real path, one is in two splits or twice in one."""
    first: dict[str, tuple[str, str]] = {}
    for split, path, real in files:
        if real in first:
            other_split, other = first[real]
            where = f"twice in {split}" if split == other_split else f"in the splits {other_split} and {split}"
            link = "" if path == other else f", also as {path}"
            raise ValueError(f"the file {other} is {where}{link}: an image belongs to one split, once")
        first[real] = split, path


def check_data_files(data_files: Mapping[str, Iterable[str]], splits: Collection[str]) -> None:
    """
    Raise `ValueError` if of the files that `datasets` has found for some splits one is in two or twice in one, also as
    a copy such as `train (1).parquet`, or a shard is missing.
    """
    used = {split: list(files) for split, files in data_files.items() if split in splits}
    check_paths((split, file, _real_path(file)) for split, files in used.items() for file in files)
    for split, files in used.items():
        shards: dict[tuple[str, str, int], list[int]] = defaultdict(list)
        others: list[tuple[str, str, str]] = []
        for file in files:
            folder, _, name = file.replace("\\", "/").rpartition("/")
            if parts := _SHARD.match(name):
                shards[folder, parts[1], int(parts[3])].append(int(parts[2]))
            else:
                others.append((folder, name.split(".")[0], file))
        for (_, stem, count), numbers in shards.items():
            if missing := [f"{stem}-{i:05}-of-{count:05}" for i in range(count) if i not in numbers]:
                raise ValueError(f"files of the split {split} are missing: {shorten(missing)}. Add all {count}")
        versions = [(folder, stem) for folder, stem, _ in shards]
        versions += {place[:2] for place in others if place[:2] in versions}
        if len(set(versions)) < len(versions) or any(len(set(found)) < len(found) for found in shards.values()):
            raise ValueError(f"the split {split} has the files of two versions, {shorten(files)}: remove one of them")
        _check_copies(split, [file for *_, file in others if "://" not in file and not is_image_name(file)])


def _check_copies(split: str, files: list[str]) -> None:
    first: dict[bytes, str] = {}
    sizes = Counter(map(os.path.getsize, files))
    for file in files:
        if sizes[os.path.getsize(file)] > 1:
            with open(file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").digest()
            if digest in first:
                raise ValueError(f"the files {first[digest]} and {file} of the split {split} are equal: remove one")
            first[digest] = file


def _real_path(file: str) -> str:
    real = file if "://" in file else os.path.realpath(file)
    return file if NAMED_BY_CONTENT.search(os.path.basename(real)) else real
