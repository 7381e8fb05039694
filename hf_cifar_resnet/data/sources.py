"""Where a dataset comes from: built in, a folder, or the Hub."""

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import PurePath
from typing import Any

import datasets
import pyarrow
from datasets import config
from datasets.data_files import DataFilesList
from datasets.exceptions import DatasetGenerationError, DatasetsError
from huggingface_hub import HfApi, get_cached_repo_tree, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    EntryNotFoundError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] (of httpx or httpx2)
)

from ..errors import naming_folder, one_line, printable, shorten
from ..processes import is_rank_0
from . import folders
from .arguments import DataArguments
from .files import check_data_files, check_paths
from .hub import of_revision, read_card
from .images import is_hidden_name
from .labels import check_class_names, check_numbers
from .shapes import shapes100

BUILT_IN = {"shapes100": shapes100}
VALIDATION_SPLITS = ("validation", "valid", "val", "dev")
USED_SPLITS = ("train", *VALIDATION_SPLITS, "test")
NO_NETWORK = f"give a local folder instead, or try dataset_name {next(iter(BUILT_IN))}, which needs no network"
# What huggingface_hub raises where the Hub does not answer, or has not what is asked for.
_HUB_ERRORS = (OSError, ValueError, HTTPError, CachedRepoTreeNotFoundError, EntryNotFoundError)
# What `datasets` raises for files that it cannot read.
_DATASETS_ERRORS = (
    *_HUB_ERRORS, ArithmeticError, AttributeError, EOFError, ImportError, LookupError, RuntimeError, TypeError,
    pyarrow.ArrowException, DatasetsError,
)  # fmt: skip
# Errors of writing, which nobody does to the dataset itself, and errors of access.
_WRITING = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ACCESS = (errno.EACCES, errno.EPERM, errno.ENOTDIR)
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")

RawSplits = dict[str, datasets.Dataset]  # by their names, with the columns that the dataset has

logger: logging.Logger = logging.getLogger(__name__)


def load_raw(args: DataArguments) -> tuple[RawSplits, str | None]:
    """
    Return the splits of a dataset, and its commit on the Hub, or None. Raises `ValueError` if it cannot be loaded.
    """
    name = args.dataset_name
    if name in BUILT_IN:
        return _by_name(BUILT_IN[name]()), None
    if os.path.isdir(name):
        if re.search(r"[*?\[\]\r\n]|::", os.path.abspath(name)):
            raise ValueError(
                f"the folder {printable(name)} cannot be read: datasets takes *, ?, [, ], :: and line breaks in its "
                "path for a pattern; rename it, or give a link to it of another name"
            )
        return _load_folder(name, args), None
    if os.path.exists(name):
        raise ValueError(f"dataset_name {name} is not a folder: give the one that the dataset's files are in")
    if not re.fullmatch(r"[^.~/\\][^/]*(/[^/]+)?", name):  # as a Hub id is written
        raise ValueError(f"dataset_name {name}: there is no such folder; {NO_NETWORK}")
    return _load_from_hub(args)


def _load_folder(path: str, args: DataArguments) -> RawSplits:
    folder = folders.read_folder(path)
    saved, unlisted = folders.find_saved(folder)
    if unlisted:
        _warn(f"in {path} are not read, since dataset_dict.json does not list them: {shorten(unlisted)}")
    if saved or unlisted:
        return _load_saved(saved, args)
    found = folders.find_image_folder(folder) if args.dataset_config_name is None else None
    if found is None:
        with _explaining_failure(args):
            builder = datasets.load_dataset_builder(folder.path, args.dataset_config_name, description=folder.digest)
        if unread := folders.find_unread(folder, builder.config.data_files or {}):
            _warn(f"in {path} are not read: {shorten(unread)}")
        return _read(builder, args)
    left_out = found.left_out
    if found.metadata:
        raw, unlisted = _read_with_metadata(folder, found, args)
        left_out = left_out + unlisted
    else:
        with _explaining_failure(args):
            made = folders.read_image_folder(folder, found)
        raw = _by_name(made)
    if left_out:
        _warn(f"in {path} are not read as images: {shorten(left_out)}")
    return raw


def _load_saved(saved: dict[str, str], args: DataArguments) -> RawSplits:
    """Load what `Dataset.save_to_disk` has written into a folder for each split."""
    loaded: RawSplits = {}
    for split, place in saved.items():
        with _explaining_failure(args, place):
            # `load_dataset` would read all .arrow files, those of the folder's own cache too.
            part = datasets.load_from_disk(place)
        if not isinstance(part, datasets.Dataset):
            raise ValueError(f"the folder {place} holds more than one split")
        loaded[split] = part.with_format(None)
    check_class_names(loaded, USED_SPLITS, {})
    return loaded


def _read_with_metadata(
    folder: folders.Folder, found: folders.ImageFolder, args: DataArguments
) -> tuple[RawSplits, list[str]]:
    """Return images with the labels of metadata files, and which images those do not list."""
    tables = [folder.absolute(path) for paths in found.metadata.values() for path in paths]
    check_numbers([path for path in tables if path.endswith(".csv")], args.label_column_name)
    # Patterns would have `datasets` search the folder some 46 times, and find split names anywhere in a path.
    data_files = {
        split: DataFilesList([folder.absolute(path) for path in images + found.metadata[split]], [(folder.digest,)])
        for split, images in found.images.items()
    }
    with _explaining_failure(args):
        builder = datasets.load_dataset_builder(folder.path, data_files=data_files, description=folder.digest)
    raw = _read(builder, args, check_files=False)
    listed = []
    for split, part in raw.items():
        column = next(name for name, feature in part.features.items() if isinstance(feature, datasets.Image))
        images = part.select_columns(column).cast_column(column, datasets.Image(decode=False))[:][column]
        listed += [(split, os.path.normpath(image["path"])) for image in images]
    check_paths((split, path, path) for split, path in listed)
    known = {path for _, path in listed}
    return raw, [path for images in found.images.values() for path in images if folder.absolute(path) not in known]


def _load_from_hub(args: DataArguments) -> tuple[RawSplits, str | None]:
    """Return a dataset of the Hub and its commit."""
    name, revision = args.dataset_name, args.dataset_revision
    if args.dataset_config_name is None and (downloaded := _download_image_folder(args)):
        path, commit = downloaded
        return _load_folder(path, args), commit
    # What `datasets.load_dataset` does; its result does not know the commit.
    with _explaining_failure(args):
        builder = datasets.load_dataset_builder(name, args.dataset_config_name, revision=revision)
    builder = of_revision(builder, name, args.dataset_config_name, revision)
    return _read(builder, args), builder.hash


def _download_image_folder(args: DataArguments) -> tuple[str, str] | None:
    """
    Download a dataset of the Hub that holds images in folders of splits, and return its local folder and its commit.
    Returns None for any other dataset. Without network, a complete copy in the cache is taken.
    """
    repo: dict[str, Any] = {
        "repo_id": args.dataset_name,
        "repo_type": "dataset",
        "revision": args.dataset_revision,
    }
    try:
        paths = HfApi().list_repo_files(**repo)
    except _HUB_ERRORS:  # `datasets` says what it is, if there is no copy in the cache
        try:  # what is there need not be all: a file that was asked for alone, or an interrupted download
            paths = [file.path for file in get_cached_repo_tree(**repo)]
        except _HUB_ERRORS:
            return None
        repo["local_files_only"] = True
    visible = [path for path in paths if not any(map(is_hidden_name, path.split("/")))]
    split_folders = folders.find_split_folders(visible)
    has_metadata = any(PurePath(path).name in folders.METADATA_FILES for path in visible)
    if not split_folders or has_metadata:
        return None
    with _explaining_failure(args):
        card = hf_hub_download(**repo, filename="README.md") if "README.md" in visible else None
    if card is not None and "configs" in read_card(card):
        return None
    patterns = ["README.md", *(f"{escape(folder)}/*" for folder in split_folders.values())]
    with _explaining_failure(args):
        path = snapshot_download(**repo, allow_patterns=patterns)  # by its revision, which it then finds offline
    return path, PurePath(path).name


def _read(builder: datasets.DatasetBuilder, args: DataArguments, check_files: bool = True) -> RawSplits:
    data_files = builder.config.data_files or {}
    if check_files:
        check_data_files(data_files, USED_SPLITS)
    with _explaining_failure(args):
        builder.download_and_prepare()
        made = builder.as_dataset()
    raw = _by_name(made)
    check_class_names(raw, USED_SPLITS, data_files)
    return raw


def _by_name(made: Any) -> RawSplits:
    """Return the splits of a `datasets.DatasetDict`, whose keys may be more than names."""
    return {str(split): part for split, part in made.items()}


def _warn(text: str) -> None:
    if is_rank_0():
        logger.warning(text)


# What is wrong


@contextmanager
def explaining(name: str) -> Iterator[None]:
    """Add to a `ValueError` about a dataset that its folder has archives, or has the name of a dataset on the Hub."""
    with naming_folder(name, "from another directory the name means the dataset on the Hub"):
        try:
            yield
        except ValueError as error:
            walk = os.walk(name) if os.path.isdir(name) else ()
            paths = (os.path.join(parent, file) for parent, _, files in walk for file in files)
            found = sorted(os.path.relpath(path, name) for path in paths if path.lower().endswith(_ARCHIVES))
            if found:
                raise ValueError(f"{error}; unpack its archives: {shorten(found)}") from error
            raise


@contextmanager
def _explaining_failure(args: DataArguments, place: str | None = None) -> Iterator[None]:
    """Raise `ValueError` for what `datasets` raises where it fails, at `place` if not in the dataset's own folder."""
    try:
        yield
    except _DATASETS_ERRORS as error:
        name = args.dataset_name
        if fault := _find_cache_fault(error, name) or _find_configuration_fault(error, args):
            raise ValueError(fault) from error
        # A DatasetGenerationError says only that something was wrong.
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) else None
        reason = one_line(cause or error).rstrip(".")
        if os.path.isdir(name):
            raise ValueError(
                f"the folder {place or name} cannot be read: {reason}; it needs the parquet files or images of train "
                "and test"
            ) from error
        raise ValueError(f"the dataset {name} cannot be loaded from the Hub: {reason}; {NO_NETWORK}") from error


def _find_cache_fault(error: BaseException, name: str) -> str | None:
    """Return that the cache cannot be written, if that is why `datasets` failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and _is_about_cache(cause, name):
            place, reason = cause.filename or config.HF_DATASETS_CACHE, cause.strerror or cause
            return f"the cache cannot be written: {place}: {reason}; make room, or set HF_HOME to another folder"
        cause = cause.__cause__ or cause.__context__
    return None


def _find_configuration_fault(error: BaseException, args: DataArguments) -> str | None:
    """Return that one of several configurations has to be chosen, if that is why `datasets` failed."""
    if not isinstance(error, ValueError):
        return None
    try:
        names = datasets.get_dataset_config_names(args.dataset_name)
    except _DATASETS_ERRORS:
        return None
    if len(names) < 2 or args.dataset_config_name in names:
        return None
    return f"{args.dataset_name} has several configurations: choose one with dataset_config_name, of {shorten(names)}"


def _is_about_cache(error: OSError, name: str) -> bool:
    inside = error.filename is not None and f"{error.filename}{os.sep}".startswith(os.path.abspath(name) + os.sep)
    # The last is of `datasets` itself, before it writes.
    return error.errno in _WRITING or (error.errno in _ACCESS and not inside) or "disk space" in str(error)
