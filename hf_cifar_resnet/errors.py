"""Errors of the user's input, and how a command reports them: one line on standard error."""

import argparse
import errno
import functools
import os
import re
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

SIGINT, SIGPIPE = 2, 13  # Windows has no `signal.SIGPIPE`
LONGEST = 2000  # characters of an error
SHOWN = 3  # of many files or classes in a message
# Parts of gloo's error message when another process of the group has died.
_LOST = ("Connection closed by peer", "Connection reset by peer")


class UserError(ValueError):
    """An error that the user can correct: shown as one line, without a traceback, with exit code 2."""


def printable(text):
    """Return a text as one line that is safe for a terminal: control characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def one_line(error):
    """Return the message of an exception as one line; without a message, its type."""
    return " ".join(str(error).split()) or type(error).__name__


def shorten(words):
    """Return the first few words of a message's list, and how many more there are."""
    more = f" and {len(words) - SHOWN:,} more" if len(words) > SHOWN else ""
    return f"{', '.join(words[:SHOWN])}{more}"


@contextmanager
def as_user_error(what, *kinds):
    """Turn exceptions of these kinds into a [`UserError`]: `what`, and the reason; or if it is empty, their message."""
    try:
        yield
    except BrokenPipeError:  # whoever reads the output has ended, which is no error
        raise
    except kinds as error:
        if not what:
            raise UserError(one_line(error)) from error
        raise UserError(f"{what}: {getattr(error, 'strerror', None) or one_line(error)}") from error


@contextmanager
def naming_folder(name, hub_words):
    """Add to a [`UserError`] that it is about a folder, where `name` may mean the Hub too; `hub_words` say how."""
    try:
        yield
    except UserError as error:
        if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(name)) and os.path.isdir(name):
            raise UserError(f"{error}; this is about the folder {name} here: {hub_words}") from error
        raise


def expand_home(arguments):
    """
    Expand a leading `~` in the texts of an object, as a shell does where it sees one: it sees none in a recipe, in
    `--output_dir=~/runs` and in Python.
    """
    for name, value in vars(arguments).items():
        if isinstance(value, list):
            setattr(arguments, name, [os.path.expanduser(part) if isinstance(part, str) else part for part in value])
        elif isinstance(value, str):
            setattr(arguments, name, os.path.expanduser(value))


class LineParser(argparse.ArgumentParser):
    """An argument parser that raises [`UserError`], expands `~`, and refuses empty strings and abbreviated flags."""

    def __init__(self, *args, **kwargs):
        self.flags = {}  # with their actions
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def add_argument(self, *names, group=None, **options):
        """Add an argument, in `--help` under the heading of a `group` made by `add_argument_group`."""
        action = group.add_argument(*names, **options) if group else super().add_argument(*names, **options)
        self.flags |= dict.fromkeys(action.option_strings, action)
        return action

    def error(self, message):
        raise UserError(message)

    def parse_known_args(self, args=None, namespace=None):
        parsed, rest = super().parse_known_args(args, namespace)
        expand_home(parsed)
        for name, value in vars(parsed).items():
            # An unset shell variable gives an empty string, which as a path would mean the current folder.
            if isinstance(value, str) and not value.strip() and value != self.get_default(name):
                flag = f"--{name}" if f"--{name}" in self.flags else name
                raise UserError(f"{flag} must not be empty: give it a value, or leave it out")
        return parsed, rest


def reports_user_errors(function):
    """
    Decorate a program's main function: a [`UserError`], or a file that cannot be used, becomes one line, code 2.

    If a launcher started several processes, only the first one that fails prints its error, because the others often
    fail as a consequence. A closed output pipe (`| head`), Ctrl-C, SIGTERM and SIGHUP end the program silently, with
    the usual codes, and as exceptions, so that no temporary files and no runs of a study are left behind.
    """

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        try:
            if hasattr(sys.stdout, "reconfigure"):  # a terminal that lacks a character shows its escape sequence
                sys.stdout.reconfigure(errors="backslashreplace")
            try:
                with _signals_as_exceptions():
                    return function(*args, **kwargs)
            finally:
                _flush_output()
        except UserError as error:
            _print_error(error)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit(128 + SIGINT)
        except BrokenPipeError:
            _discard_output()
            sys.exit(128 + SIGPIPE)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # a write names no file
                _discard_output()
                _print_error(f"the output or a file cannot be written: {error.strerror}")
                sys.exit(2)
            if error.filename is None or error.strerror is None:  # such as a lost connection
                raise
            _print_error(f"{error.filename} cannot be used: {error.strerror}")
            sys.exit(2)
        except RuntimeError as error:
            if any(sign in str(error) for sign in _LOST):
                _print_error("another process of this run has been lost; what was saved is intact: start all again "
                             "with --resume_from_checkpoint auto")  # fmt: skip
                sys.exit(1)
            raise

    return wrapper


@contextmanager
def _signals_as_exceptions():
    """Let SIGTERM and SIGHUP raise `SystemExit`, unless they are ignored or handled already; later ones are ignored."""

    def end(signum, frame):
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


def _flush_output():
    try:
        with as_user_error("the output cannot be written", OSError):
            if sys.stdout is not None:
                sys.stdout.flush()
    except UserError:  # such as a full disk
        _discard_output()
        raise


def _discard_output():
    # Python would otherwise try to flush the rest when it exits, and print a traceback.
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(error):
    if _is_first_to_fail():
        line = printable(error)
        line = line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
        print(f"error: {line}", file=sys.stderr, flush=True)


def _is_first_to_fail():
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
