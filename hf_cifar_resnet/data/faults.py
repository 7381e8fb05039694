"""What is wrong where a dataset cannot be loaded, beside its images: the cache, a configuration, archives, a name."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import datasets

from ..errors import UserError, naming_folder, shorten

# Errors of writing, which nobody does to the dataset itself, and errors of access.
_WRITING = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ACCESS = (errno.EACCES, errno.EPERM, errno.ENOTDIR)
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")


@contextmanager
def explaining(name: str) -> Iterator[None]:
    """Add to a [`UserError`] about a dataset that its folder has archives, or has the name of a dataset on the Hub."""
    with naming_folder(name, "from another directory the name means the dataset on the Hub"):
        try:
            yield
        except ValueError as error:
            walk = os.walk(name) if os.path.isdir(name) else ()
            paths = (os.path.join(parent, file) for parent, _, files in walk for file in files)
            found = sorted(os.path.relpath(path, name) for path in paths if path.lower().endswith(_ARCHIVES))
            if found:
                raise UserError(f"{error}; unpack its archives: {shorten(found)}") from error
            raise


def explain(error: Exception, name: str, config_name: str | None) -> str | None:
    """Return what is wrong with the cache or the configuration where `datasets` failed by an error, or None."""
    cause = error
    while cause is not None:
        if isinstance(cause, OSError) and _is_about_cache(cause, name):
            place, reason = cause.filename or datasets.config.HF_DATASETS_CACHE, cause.strerror or cause
            return f"the cache cannot be written: {place}: {reason}; make room, or set HF_HOME to another folder"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, ValueError):
        try:
            names = datasets.get_dataset_config_names(name)
        except Exception:  # of any kind, as above
            return None
        if len(names) > 1 and config_name not in names:
            return f"{name} has several configurations: choose one with --dataset_config_name, of {shorten(names)}"
    return None


def _is_about_cache(error, name):
    inside = error.filename is not None and f"{error.filename}{os.sep}".startswith(os.path.abspath(name) + os.sep)
    # The last is of `datasets` itself, before it writes.
    return error.errno in _WRITING or (error.errno in _ACCESS and not inside) or "disk space" in str(error)
