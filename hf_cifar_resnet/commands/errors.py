"""How every command ends: its errors become one line on standard error, and signals end it cleanly."""

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import one_line, printable
from .line_parser import flags_of_command

SIGINT, SIGPIPE = 2, 13  # Windows has no `signal.SIGPIPE`
MAX_LENGTH = 2000  # characters of an error
# Parts of gloo's error message when another process of the group has died.
_LOST = ("Connection closed by peer", "Connection reset by peer")


@contextmanager
def reports_errors(show_traceback: bool = False) -> Iterator[None]:
    """
    Run a program within this: the errors that a user can correct become one line, with exit code 2. These are
    `ValueError`, `OSError`, `ImportError` (of a package that is not installed) and `FloatingPointError` (of a training
    that diverges); any other is a bug of ours and keeps its traceback. So do all with `show_traceback`.

    If a launcher started several processes, only the first one that fails prints its error, because the others often
    fail as a consequence. A closed output pipe (`| head`), Ctrl-C, SIGTERM and SIGHUP end the program silently, with
    the usual codes, and as exceptions, so that no temporary files and no runs of a study are left behind.
    """
    with flags_of_command() as flags:
        try:
            if isinstance(sys.stdout, io.TextIOWrapper):
                # A terminal that lacks a character shows its escape sequence; a pipe gets each line when it is printed.
                sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
            try:
                with _signals_as_exceptions():
                    yield
            finally:
                _flush_output()
        except KeyboardInterrupt:
            sys.exit(128 + SIGINT)
        except BrokenPipeError:
            _discard_output()
            sys.exit(128 + SIGPIPE)
        except (ValueError, OSError, ImportError, FloatingPointError) as error:
            if show_traceback:
                raise
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                _discard_output()
            _print_error(_message(error, flags))
            sys.exit(2)
        except RuntimeError as error:
            if any(sign in str(error) for sign in _LOST):
                _print_error("another process of this run has been lost; what was saved is intact: start all again "
                             "with --resume_from_checkpoint auto")  # fmt: skip
                sys.exit(1)
            raise


def _message(error: Exception, flags: Collection[str]) -> str:
    """Return the line for an error."""
    if isinstance(error, OSError) and error.strerror is not None:
        if error.filename is not None:
            return f"{error.filename} cannot be used: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # a write names no file
            return f"the output or a file cannot be written: {error.strerror}"
    return _with_flags(one_line(error), flags)


def _with_flags(message: str, flags: Collection[str]) -> str:
    """Show the arguments in a message that begins with one as the flags that they are here."""
    first, *rest = message.split(" ")
    if f"--{first.rstrip(':')}" not in flags:
        return message
    # The second word may be the value of the first, and others without "_" are plain English.
    for position in range(1, len(rest)):
        name = rest[position].strip("(),;:")
        if "_" in name and f"--{name}" in flags:
            rest[position] = rest[position].replace(name, f"--{name}")
    return " ".join([f"--{first}", *rest])


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `SystemExit`, unless they are ignored or handled already; later ones are ignored."""

    def end(signum: int, frame: object) -> None:
        signal.signal(signum, signal.SIG_IGN)
        sys.exit(128 + signum)

    alone = threading.current_thread() is threading.main_thread() and "LOCAL_RANK" not in os.environ
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if alone and hasattr(signal, name)]
    ours = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _flush_output() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:  # such as a full disk
        _discard_output()
        raise OSError(f"the output cannot be written: {error.strerror}") from error


def _discard_output() -> None:
    # Python would otherwise try to flush the rest when it exits, and print a traceback.
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(error: str) -> None:
    if _is_first_to_fail():
        line = printable(error)
        line = line if len(line) <= MAX_LENGTH else f"{line[: MAX_LENGTH - 3]}..."
        print(f"error: {line}", file=sys.stderr, flush=True)


def _is_first_to_fail() -> bool:
    """Return whether no other process of this launch on this machine has reported an error before."""
    # torchrun and accelerate set a file for each process, in a folder that the processes of one start share.
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if error_file is None:
        return True
    try:
        Path(error_file).parents[1].joinpath("hf_cifar_resnet-failed").touch(exist_ok=False)
    except OSError as error:
        return not isinstance(error, FileExistsError)
    return True
