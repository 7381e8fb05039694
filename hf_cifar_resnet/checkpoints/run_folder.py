"""The folder of a run: its name, its lock, and the checkpoint in it to resume from."""

import contextlib
import errno
import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path

from accelerate.utils import broadcast_object_list

from ..errors import UserError
from ..hub import client
from ..reporting.run_files import METRICS_JSON, STUDY_JSON, list_checkpoints
from .portable import read_portable
from .resume import find_last_usable, find_resumable


def output_folder(args, name):
    """
    The folder of this run, not created yet: `--output_dir`, or `runs/NAME`, numbered where that exists.

    Raises:
        UserError: if `--output_dir` holds a study, or a run already that this one does not resume.
    """
    if not args.output_dir_given:
        if _is_auto(args):
            raise UserError("--resume_from_checkpoint auto needs --output_dir, the folder to look in")
        chosen = [_default_folder(args, name)]
        if args.world_size > 1:
            # One process decides, before any creates it.
            broadcast_object_list(chosen)
        folder = Path(chosen[0])
    else:
        folder = Path(args.output_dir)
        if (folder / STUDY_JSON).exists():
            raise UserError(f"--output_dir {folder} holds a study, whose files a run would replace: choose another")
        if not args.resume_from_checkpoint and args.process_index == 0 and holds_run(folder):
            raise UserError(
                f"--output_dir {folder} holds a run already: add --resume_from_checkpoint auto to continue it, "
                "or choose another folder"
            )
    return str(folder)


@contextlib.contextmanager
def run_folder(args):
    """
    Makes the folder of the run, in one process, and keeps other runs out of it within. Where an error ends it before
    anything was written, the folder goes again, and those above it that were made for it.

    Raises:
        UserError: if it cannot be written, or another run is writing into it.
    """
    if args.process_index > 0:
        yield
        return
    folder = Path(args.output_dir)
    missing = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(f"the output folder {folder} cannot be written: {error.strerror or error}") from error
        with locked(folder):
            yield
    except Exception:
        with contextlib.suppress(OSError):  # one that is not empty
            for path in missing:
                path.rmdir()
        raise


def _default_folder(args, name):
    if args.resume_from_checkpoint and not _wants_last(args) and not _is_on_hub(args):
        return str(Path(args.resume_from_checkpoint).parent)
    taken = [folder.name for folder in Path("runs").iterdir()] if Path("runs").is_dir() else []
    matches = [re.fullmatch(re.escape(name) + r"(?:-(\d+))?", other) for other in taken]
    numbers = [int(match[1] or 1) for match in matches if match]
    number = max(numbers, default=0 if not _wants_last(args) else 1) + (not _wants_last(args))
    return str(Path("runs", name if number == 1 else f"{name}-{number}"))


def holds_run(folder):
    """Whether a folder has what a finished run, or one to resume, leaves."""
    return (folder / METRICS_JSON).exists() or bool(list_checkpoints(folder))


def _wants_last(args):
    return str(args.resume_from_checkpoint).lower() == "true" or _is_auto(args)


def _is_auto(args):
    return str(args.resume_from_checkpoint).lower() == "auto"


def _is_on_hub(args):
    # With the @, since `runs/checkpoint-9` looks like user/repo too.
    value = str(args.resume_from_checkpoint)
    return "@" in value and client.is_reference(value)


def resume_point(args):
    """
    The checkpoint folder to go on from, or None: `--resume_from_checkpoint FOLDER`, `true` for the last whole one,
    `auto` for that or a new training, or `user/repo@branch`, which is fetched into the run's folder.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    if not args.resume_from_checkpoint:
        return None
    if _is_on_hub(args):
        with args.main_process_first(desc="fetching the checkpoint"):
            return _fetch(args)
    say = print if args.process_index == 0 else None
    if _is_auto(args):
        return find_last_usable(args.output_dir, args.load_best_model_at_end, say)
    given = True if _wants_last(args) else args.resume_from_checkpoint
    return find_resumable(given, args.output_dir, args.load_best_model_at_end, say)


def _fetch(args):
    """One process fetches; the others find what it wrote."""
    if args.process_index > 0:
        return find_last_usable(args.output_dir, args.load_best_model_at_end)
    if list_checkpoints(args.output_dir):
        raise UserError(
            f"--resume_from_checkpoint: {args.output_dir} has checkpoints of its own; choose another folder"
        )
    try:
        return read_portable(client.download(args.resume_from_checkpoint), args.output_dir)
    except client.HubError as error:
        raise UserError(f"--resume_from_checkpoint {args.resume_from_checkpoint}: {error}") from error


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"


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
