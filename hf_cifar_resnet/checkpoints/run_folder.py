"""The folder of a run: its name, its lock, and the checkpoint in it to resume from."""

import errno
import os
import re
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from ..documents import remove_leftovers
from ..errors import UserError, explained
from ..processes import decide_on_rank_0, is_rank_0
from ..runs.files import LOCK, METRICS_JSON, RUN_FILES, STUDY_JSON, list_checkpoints
from .outputs import check_no_checkpoint, check_replaced
from .pickle_free import read_pickle_free
from .resume import find_last_resumable, find_resumable
from .save import is_complete

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def choose_run_folder(args, name):
    """
    Choose the folder of this run, which is not created yet: `--output_dir`, or `runs/NAME` with a number if it exists.
    Raises [`UserError`] if `--output_dir` holds a study, or a run that this one does not resume.
    """
    return decide_on_rank_0(lambda: _choose_run_folder(args, name))


def _choose_run_folder(args, name):
    if not args.output_dir_given:
        if _kind_of_resume(args) == "auto":
            raise UserError("--resume_from_checkpoint auto needs --output_dir, the folder to look in")
        return _default_folder(args, name)
    folder = Path(args.output_dir)
    if (folder / STUDY_JSON).exists():
        raise UserError(f"--output_dir {folder} holds a study, whose files a run would replace: choose another")
    _check_replaces_nothing(folder, args)
    return str(folder)


def _check_replaces_nothing(folder, args):
    """Raise [`UserError`] if the run would replace another one, or files that no run has written."""
    check_no_checkpoint("--output_dir", folder)
    kind, checkpoints = _kind_of_resume(args), list_checkpoints(folder)
    if kind == "folder":
        same = os.path.realpath(Path(args.resume_from_checkpoint).parent) == os.path.realpath(folder)
    else:
        same = kind == "true" or (kind == "auto" and checkpoints)
    if holds_run(folder) and not same:
        raise UserError(
            f"--output_dir {folder} holds a run already: "
            f"{'add --resume_from_checkpoint auto to continue it, or ' if checkpoints else ''}choose another folder"
        )
    if not any(map(is_complete, checkpoints)):
        check_replaced("--output_dir", folder, RUN_FILES)


def _default_folder(args, name):
    kind = _kind_of_resume(args)
    if kind == "folder":
        return str(Path(args.resume_from_checkpoint).parent)
    matches = [re.fullmatch(re.escape(name) + r"(?:-(\d+))?", path.name) for path in Path("runs").glob("*")]
    last = max((int(match[1] or 1) for match in matches if match), default=0)
    number = max(1, last) if kind == "true" else last + 1
    return str(Path("runs", name if number == 1 else f"{name}-{number}"))


def holds_run(folder):
    """Whether a folder holds a finished run or a checkpoint."""
    return (folder / METRICS_JSON).exists() or bool(list_checkpoints(folder))


@contextmanager
def lock_run_folder(args):
    """
    Create the folder of the run, on rank 0, and lock it for the duration of the context; it is removed again after an
    error before anything was written. Raises [`UserError`] if it cannot be written, or another run is writing into it.
    """
    if not is_rank_0():
        yield
        return
    folder = Path(args.output_dir)
    created = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    with explained(f"the output folder {folder} cannot be written", OSError):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    with lock_folder(folder):
        try:
            yield
        except Exception:
            if created and [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                with suppress(OSError):  # such as a folder that another run uses by now
                    for path in created:
                        path.rmdir()
            raise


@contextmanager
def lock_folder(folder):
    """Keep other runs out of a folder while the context and this process last. Raises [`UserError`] if one is in it."""
    if fcntl is None:
        yield
        return
    # The file stays there: if it were deleted, a run that has it open and one that creates it anew could both hold it.
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        try:
            # The package filelock uses flock, which the data loader's forked workers would inherit: after a kill they
            # may live on and keep the folder locked. A lock by lockf belongs to this process alone.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # other errors mean a filesystem without locks
                raise UserError(
                    f"another run is writing into {folder}: wait for its end, or choose another --output_dir"
                ) from None
        remove_leftovers(folder)
        yield


def _kind_of_resume(args):
    """Return what `--resume_from_checkpoint` is: None, or `true`, `auto`, `hub` or `folder`."""
    value = str(args.resume_from_checkpoint or "")
    if value.lower() in ("", "true", "auto"):
        return value.lower() or None
    return "pushed" if is_pushed_state(value) else "folder"


def is_pushed_state(value: str | bool | None) -> bool:
    """Whether `resume_from_checkpoint` is `user/repo@branch`, a state that was pushed to the Hub."""
    # With the @, since `runs/checkpoint-9` looks like user/repo too.
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*@.+", str(value)) is not None and not os.path.exists(str(value))


def find_resume_checkpoint(args, pushed: Path | None = None) -> Path | None:
    """
    Return the checkpoint that `resume_from_checkpoint` names, or None: a folder, `true` for the last complete one,
    `auto` for that one or a new training, or a state that was pushed, whose copy from the Hub is in the folder `pushed`
    and becomes a checkpoint in the run's folder. Raises `ValueError` if there is none, or it is damaged.
    """
    return decide_on_rank_0(lambda: _find_resume_checkpoint(args, pushed))


def _find_resume_checkpoint(args, pushed):
    kind = _kind_of_resume(args)
    if kind is None:
        return None
    if kind == "pushed":
        if list_checkpoints(args.output_dir):
            raise ValueError(
                f"resume_from_checkpoint: {args.output_dir} has checkpoints of its own; choose another folder"
            )
        return read_pickle_free(pushed, args.output_dir)
    if kind == "auto":
        return find_last_resumable(args.output_dir, args.load_best_model_at_end, print)
    given = True if kind == "true" else args.resume_from_checkpoint
    return find_resumable(given, args.output_dir, args.load_best_model_at_end, print)
