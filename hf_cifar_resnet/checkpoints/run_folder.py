"""The folder of a run: which one it is, its lock, and the checkpoint from which the run is resumed."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from ..documents import remove_leftovers
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

Kind = Literal["no", "last", "auto", "pushed", "checkpoint"]


def kind_of_resume(resume_from: str | bool | None) -> Kind:
    """
    Return what a `resume_from_checkpoint` is: nothing, the last checkpoint of the run (`true`), that one or a new
    training (`auto`), a state that was pushed to the Hub (`user/repo@branch`), or the folder of a checkpoint.
    """
    text = str(resume_from or "")
    named: dict[str, Kind] = {"": "no", "false": "no", "true": "last", "auto": "auto"}
    if text.lower() in named:
        return named[text.lower()]
    # With the @, since `runs/checkpoint-9` looks like user/repo too.
    is_pushed = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*@.+", text) is not None and not os.path.exists(text)
    return "pushed" if is_pushed else "checkpoint"


# Choose the folder


def choose_run_folder(output_dir: str | None, resume_from: str | bool | None, name: str) -> str:
    """
    Choose the folder of a run, which is not created yet: `output_dir`, or without one the folder of the run that is
    resumed, or `runs/NAME`, with a number if that exists. Raises `ValueError` if the folder holds a study, or a run or
    files that would be replaced.
    """
    return decide_on_rank_0(lambda: _choose_run_folder(output_dir, resume_from, name))


def _choose_run_folder(output_dir: str | None, resume_from: str | bool | None, name: str) -> str:
    if output_dir is None:
        return _default_folder(resume_from, name)
    folder = Path(output_dir)
    if (folder / STUDY_JSON).exists():
        raise ValueError(f"output_dir {folder} holds a study, whose files a run would replace: choose another")
    check_no_checkpoint("output_dir", folder)
    if holds_run(folder) and not _is_resumed_in(folder, resume_from):
        hint = "add --resume_from_checkpoint auto to continue it, or " if list_checkpoints(folder) else ""
        raise ValueError(f"output_dir {folder} holds a run already: {hint}choose another folder")
    if not any(is_complete(checkpoint) for checkpoint in list_checkpoints(folder)):
        check_replaced("output_dir", folder, RUN_FILES)
    return str(folder)


def _is_resumed_in(folder: Path, resume_from: str | bool | None) -> bool:
    """Whether the run that a folder holds is the one that is resumed, by its last checkpoint or a given one."""
    kind = kind_of_resume(resume_from)
    if kind == "checkpoint":
        return os.path.realpath(Path(str(resume_from)).parent) == os.path.realpath(folder)
    return kind in ("last", "auto")


def _default_folder(resume_from: str | bool | None, name: str) -> str:
    kind = kind_of_resume(resume_from)
    if kind == "auto":
        raise ValueError("resume_from_checkpoint auto needs an output_dir, the folder to look in")
    if kind == "checkpoint":
        return str(Path(str(resume_from)).parent)
    matches = [re.fullmatch(re.escape(name) + r"(?:-(\d+))?", path.name) for path in Path("runs").glob("*")]
    last = max((int(match[1] or 1) for match in matches if match), default=0)
    number = max(1, last) if kind == "last" else last + 1
    return str(Path("runs", name if number == 1 else f"{name}-{number}"))


def holds_run(folder: Path) -> bool:
    """Whether a folder holds a finished run or a checkpoint."""
    return (folder / METRICS_JSON).exists() or bool(list_checkpoints(folder))


# Choose the checkpoint


def find_resume_checkpoint(
    resume_from: str | bool | None, folder: str, needs_best: bool, pushed: Path | None = None
) -> Path | None:
    """
    Return the checkpoint that a `resume_from_checkpoint` means, or None for a new training.

    Args:
        resume_from: see [`kind_of_resume`].
        folder: that of the run.
        needs_best: whether the best model so far is needed, too.
        pushed: the local copy of a state that was pushed to the Hub; it becomes a checkpoint in the run's folder.

    Raises:
        `ValueError` or `OSError`: if there is no such checkpoint, or it is damaged; and for `auto` where there is a run
        that was complete, or has finished, but of which no checkpoint can be resumed any more: it is never begun anew.
    """
    return decide_on_rank_0(lambda: _find_resume_checkpoint(resume_from, folder, needs_best, pushed))


def _find_resume_checkpoint(
    resume_from: str | bool | None, folder: str, needs_best: bool, pushed: Path | None
) -> Path | None:
    kind = kind_of_resume(resume_from)
    if kind == "no":
        return None
    if kind == "pushed":
        if pushed is None:
            raise ValueError(f"{resume_from} is on the Hub: resolve it to a folder first")
        if list_checkpoints(folder):
            raise ValueError(f"resume_from_checkpoint: {folder} has checkpoints of its own; choose another folder")
        return read_pickle_free(pushed, folder)
    if kind == "auto":
        return _find_last_or_none(Path(folder), needs_best)
    return find_resumable(True if kind == "last" else str(resume_from), folder, needs_best)


def _find_last_or_none(folder: Path, needs_best: bool) -> Path | None:
    checkpoint = find_last_resumable(folder, needs_best)
    if checkpoint is not None:
        return checkpoint
    if any(is_complete(each) for each in list_checkpoints(folder)):
        raise ValueError(
            f"output_dir {folder} holds a run of which no checkpoint can be resumed any more, and which is not begun "
            "anew over them: choose another folder, or delete this one"
        )
    if (folder / METRICS_JSON).exists():
        raise ValueError(
            f"output_dir {folder} holds a finished run without a checkpoint, which is not begun anew over its results: "
            "choose another folder"
        )
    return None


# Lock the folder


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """
    Create the folder of a run, on rank 0, and lock it for the duration of the context; it is removed again after an
    error before anything was written. Raises `OSError` if it cannot be written, or another run is writing into it.
    """
    if not is_rank_0():
        yield
        return
    created = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"the output folder {folder} cannot be written: {error.strerror or error}") from error
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
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while the context and this process last. Raises `OSError` if one is in it."""
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
                raise OSError(
                    f"another run is writing into {folder}: wait for its end, or choose another output_dir"
                ) from None
        remove_leftovers(folder)
        yield
