"""The one exception that means: the input is wrong, and this line says what to do."""

import argparse
import functools
import os
import sys

SIGPIPE = 13  # absent from `signal` on Windows
LONGEST = 2000  # characters of an error


class UserError(ValueError):
    """Shown to the user as one line, without a traceback, with exit code 2."""


def printable(text):
    """A text as one line for a terminal: what is no visible character, such as an escape sequence, is spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


class LineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line too."""

    def error(self, message):
        raise UserError(message)


def reports_user_errors(function):
    """
    Turns a [`UserError`] into one line on standard error, from one process alone, and exit code 2.

    Where the reader of the output has gone, as with `| head`, it ends quietly with the exit code of other programs.
    """

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        try:
            try:
                return function(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except UserError as error:
            if int(os.environ.get("RANK", 0)) == 0:
                print(f"error: {_shortened(printable(error))}", file=sys.stderr, flush=True)
            sys.exit(2)
        except BrokenPipeError:
            # Or Python would try to write the rest at its end, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + SIGPIPE)

    return wrapper


def _shortened(text):
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
