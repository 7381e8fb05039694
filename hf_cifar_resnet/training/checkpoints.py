"""Checkpoints that are whole or not there: written aside, sealed with a manifest, renamed; and found again."""

import errno
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

from ..documents import read_json
from ..errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MANIFEST, TRAINER_STATE, LOCK = "manifest.json", "trainer_state.json", ".lock"
# Where files are written before they are renamed. What a killed process left there is deleted by the next write.
ASIDE = ".saving"
_PREFIX = "checkpoint-"
SHOWN = 3  # classes that differ


# Whole or not


def seal(folder):
    """Writes `manifest.json`, with the size in bytes and the SHA-256 of every file, and all of it to the disk."""
    files = {name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for name, path in _files(folder).items()}
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")
    for path in (*_files(folder).values(), folder / MANIFEST, folder):
        _to_disk(path)


def damage(folder):
    """What is wrong with a checkpoint, in a few words, or None where it is as [`seal`] left it."""
    if not folder.is_dir():
        return "it is not there"
    if not (folder / MANIFEST).is_file():
        return f"it has no {MANIFEST}, so it was not written to its end"
    try:
        entries = read_json(folder / MANIFEST)["files"]
        listed = {name: (entry["bytes"], entry["sha256"]) for name, entry in entries.items()}
        found = _files(folder)
        if missing := sorted(listed.keys() - found.keys()):
            return f"{missing[0]} is missing"
        if foreign := sorted(found.keys() - listed.keys()):
            return f"{foreign[0]} is not of it"
        for name, (size, digest) in listed.items():
            if found[name].stat().st_size != size:
                return f"{name} has {found[name].stat().st_size:,} bytes, not {size:,}"
            if _sha256(found[name]) != digest:
                return f"{name} has been changed"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"{MANIFEST} is no list of its files"
    return None


def _files(folder):
    """All that a Trainer might read, under the names of the manifest."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path for path in paths if path != folder / MANIFEST}


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path):
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Written


def begin(run, step):
    """An empty folder aside for the checkpoint of `step`; the `Path` to write into."""
    discard(run)
    (run / ASIDE / f"{_PREFIX}{step}").mkdir(parents=True)
    return run / ASIDE / f"{_PREFIX}{step}"


def commit(written):
    """Seals what was written aside and gives it its place. Returns the `Path` there."""
    place = written.parents[1] / written.name
    follow_umask(written)
    seal(written)
    # One of that name is damaged, or of a training that was gone back behind.
    shutil.rmtree(place, ignore_errors=True)
    written.rename(place)
    written.parent.rmdir()
    _to_disk(place.parent)
    return place


def follow_umask(folder):
    """Gives the files in a new folder the mode of the folder: safetensors lets their owner alone read its files."""
    mode = folder.stat().st_mode & 0o666
    for path in _files(folder).values():
        path.chmod(mode)


def discard(run):
    """Deletes what was written aside."""
    shutil.rmtree(run / ASIDE, ignore_errors=True)


@contextmanager
def replacing(folder):
    """A folder aside to write files into; those of `folder` with their names are replaced at the end, each at once."""
    discard(folder)
    (folder / ASIDE).mkdir(parents=True)
    try:
        yield folder / ASIDE
        follow_umask(folder / ASIDE)
        for path in (folder / ASIDE).iterdir():
            _to_disk(path)
            path.replace(folder / path.name)
    finally:
        discard(folder)


def rotate(run, limit, keep):
    """Deletes the checkpoints of the lowest steps until there are `limit` (None: all stay), but none of `keep`."""
    steps = numbered(run)
    free = [path for step, path in sorted(steps.items()) if path not in keep]
    for path in free[: max(0, len(steps) - limit)] if limit else []:
        shutil.rmtree(path, ignore_errors=True)


def check_room(folder, needed, what):
    """
    Args:
        needed (`int`): bytes.
        what (`str`): what needs them, for the message.

    Raises:
        UserError: if the disk has fewer.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{what} may take {_megabytes(needed)}, and the disk of {folder} has {_megabytes(free)} left: "
            "make room, or choose another --output_dir"
        )


def _megabytes(size):
    return f"{size / 1e6:,.0f} MB"


def is_write_error(error):
    """Whether an exception, of whichever library, means that a file could not be written."""
    return isinstance(error, OSError) or any(name in str(error) for name in ("PytorchStreamWriter", "I/O error"))


def why_not_written(error, folder):
    """The reason in a few words. PyTorch does not tell it."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    full = shutil.disk_usage(folder).free < 2**20
    return os.strerror(errno.ENOSPC) if full else " ".join(str(error).split())


@contextmanager
def locked(run):
    """
    Keeps other runs out of a folder within, and until this process ends, however it ends.

    Raises:
        UserError: if another run is in it.
    """
    if fcntl is None:
        yield
        return
    with open(run / LOCK, "a+", encoding="utf-8") as file:
        try:
            # Unlike flock's, this lock does not live on in the processes of a data loader.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # others mean a filesystem without locks
                raise UserError(
                    f"another run is writing into {run}: wait for its end, or choose another --output_dir"
                ) from None
        try:
            yield
        finally:
            (run / LOCK).unlink(missing_ok=True)


# Found


def step_of(checkpoint):
    """N of a folder `checkpoint-N`, or None."""
    number = Path(checkpoint).name.removeprefix(_PREFIX)
    return int(number) if number.isdecimal() else None


def numbered(run):
    """The folders `checkpoint-N` of a run: {N: `Path`}."""
    folders = [path for path in Path(run).glob(f"{_PREFIX}*") if path.is_dir()]
    return {step_of(path): path for path in folders if step_of(path) is not None}


def state_of(checkpoint):
    """The Trainer's state in a checkpoint, a dict. Raises as [`read_json`] does."""
    return read_json(Path(checkpoint, TRAINER_STATE))


def best_of(checkpoint):
    """The best checkpoint of a run up to this one, which lies beside it wherever the two were moved; or None."""
    best = state_of(checkpoint).get("best_model_checkpoint")
    return checkpoint.parent / Path(best).name if best else None


def unusable(checkpoint, needs_best):
    """
    Why training cannot go on from a checkpoint, in a few words, or None where it can.

    Args:
        needs_best (`bool`): whether the run ends with the best model, which then has to be there too.
    """
    if reason := damage(checkpoint):
        return reason
    try:
        best = best_of(checkpoint)
    except (OSError, ValueError) as error:
        return f"{TRAINER_STATE} cannot be read: {error}"
    reason = damage(best) if needs_best and best not in (None, checkpoint) else None
    return reason and f"the best model so far, {best.name} beside it, is not whole: {reason}"


def other_classes(checkpoint, id2label):
    """Which classes a checkpoint does not share with a model, in a few words, or None where it has them all."""
    there = read_json(Path(checkpoint, "config.json")).get("id2label") or {}
    there = {int(number): name for number, name in there.items()}
    differ = [
        f"{number} is {there.get(number, 'missing')} there and {id2label.get(number, 'missing')} here"
        for number in sorted(there.keys() | id2label.keys())
        if there.get(number) != id2label.get(number)
    ]
    more = f" and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
    return f"it has other classes: {', '.join(differ[:SHOWN])}{more}" if differ else None


def newest(run, needs_best, say=None):
    """
    The last checkpoint of a run to go on from, or None.

    Args:
        say: called with one line for each later one that is passed over.
    """
    for _, checkpoint in sorted(numbered(run).items(), reverse=True):
        reason = unusable(checkpoint, needs_best)
        if reason is None:
            return checkpoint
        if say:
            say(f"{checkpoint} is passed over: {reason}")
    return None
