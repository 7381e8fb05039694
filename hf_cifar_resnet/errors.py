"""The one exception that means: the input is wrong, and this line says what to do."""

import argparse
import functools
import os
import sys
from pathlib import Path

SIGINT, SIGPIPE = 2, 13  # the latter is absent from `signal` on Windows
LONGEST = 2000  # characters of an error
# What gloo says when the process at the other end is gone.
_LOST = ("Connection closed by peer", "Connection reset by peer")


class UserError(ValueError):
    """Shown to the user as one line, without a traceback, with exit code 2."""


def printable(text):
    """A text as one line for a terminal: what is no visible character, such as an escape sequence, is spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


class LineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line too, and that takes no empty text."""

    def error(self, message):
        raise UserError(message)

    def parse_known_args(self, args=None, namespace=None):
        parsed, rest = super().parse_known_args(args, namespace)
        for name, value in vars(parsed).items():
            # As from a shell variable that is not set; as a path it would mean the current folder.
            if isinstance(value, str) and not value.strip() and value != self.get_default(name):
                flag = f"--{name}" if f"--{name}" in self._option_string_actions else name
                raise UserError(f"{flag} must not be empty: give it a value, or leave it out")
        return parsed, rest


def reports_user_errors(function):
    """
    Turns a [`UserError`] into one line on standard error and exit code 2.

    So it does with a file or folder that cannot be used, such as one that HF_HOME names. Of several processes behind a
    launcher the first that fails says so, and the others, which may fail because of it, are silent. Where the reader of
    the output has gone, as with `| head`, and after Ctrl-C, it ends quietly with the exit code of other programs.
    """

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        try:
            _make_printable()
            try:
                return function(*args, **kwargs)
            finally:
                _flush()
        except UserError as error:
            _report(error)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit(128 + SIGINT)
        except BrokenPipeError:
            _give_up_output()
            sys.exit(128 + SIGPIPE)
        except OSError as error:
            # Of a connection, or of nothing that the user could look at.
            if error.filename is None or error.strerror is None:
                raise
            _report(f"{error.filename} cannot be used: {error.strerror}{_named_by(error.filename)}")
            sys.exit(2)
        except RuntimeError as error:
            if any(sign in str(error) for sign in _LOST):
                _report("another process of this run has been lost; what was saved is intact: start all again with "
                        "--resume_from_checkpoint auto")  # fmt: skip
                sys.exit(1)
            raise

    return wrapper


def _make_printable():
    """A terminal or file that has not all characters gets escapes for them."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _flush():
    """What was printed goes out. Raises [`UserError`] where it cannot, as on a full disk."""
    try:
        if sys.stdout is not None:  # it may be closed
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up_output()
        raise UserError(f"the output cannot be written: {error.strerror or error}") from error


def _give_up_output():
    # Or Python would try to write the rest at its end, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _named_by(path):
    """The variable that names this path or a folder above it, for the message."""
    for name in ("HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "TMPDIR"):
        if os.environ.get(name) and Path(os.environ[name]) in (Path(str(path)), *Path(str(path)).parents):
            return f" ({name} names it)"
    return ""


def _report(error):
    if _is_first():
        print(f"error: {_shortened(printable(error))}", file=sys.stderr, flush=True)


def _is_first():
    """Whether no other process of this launch on this machine has failed before."""
    # torchrun and accelerate name a file for each process, in a folder for each start of them all.
    own = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if own is None:
        return True
    try:
        Path(own).parents[1].joinpath("hf_cifar_resnet-failed").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        pass
    return True


def _shortened(text):
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
