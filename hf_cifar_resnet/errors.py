"""The one exception that means: the input is wrong, and this line says what to do."""

import argparse
import functools
import os
import sys


class UserError(ValueError):
    """Shown to the user as one line, without a traceback, with exit code 2."""


class LineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line too."""

    def error(self, message):
        raise UserError(message)


def reports_user_errors(function):
    """Turns a [`UserError`] into one line on standard error, from one process alone, and exit code 2."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except UserError as error:
            if int(os.environ.get("RANK", 0)) == 0:
                print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(2)

    return wrapper
