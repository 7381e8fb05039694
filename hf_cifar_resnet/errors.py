"""Messages of errors."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

SHOWN = 3  # of many files or classes in a message


def printable(text: object) -> str:
    """Return a text as one line that is safe for a terminal: control characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def one_line(error: BaseException) -> str:
    """Return the message of an exception as one line; without a message, its type."""
    return " ".join(str(error).split()) or type(error).__name__


def reason_of(error: BaseException) -> str:
    """Return why something failed, without the file that an `OSError` names too, as one line."""
    return getattr(error, "strerror", None) or one_line(error)


def shorten(names: Sequence[str]) -> str:
    """Return the first few names of a list for a message, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def require(package: str, extra: str | None) -> None:
    """
    Check that the package of an optional dependency is installed, without importing it.

    Args:
        package: the name under which it is imported and installed, such as `onnxruntime`.
        extra: the extra of this package that brings it, such as `export`; None if none does.

    Raises:
        ImportError: with the command that installs it.
    """
    if find_spec(package) is None:
        wanted = f'"hf-cifar-resnet[{extra}]"' if extra else package
        raise ImportError(f"{package} is not installed: pip install {wanted}")


@contextmanager
def explained(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of these kinds into a `ValueError`: `what`, and the reason; or if it is empty, their message."""
    try:
        yield
    except BrokenPipeError:  # whoever reads the output has ended, which is no error
        raise
    except kinds as error:
        if not what:
            raise ValueError(one_line(error)) from error
        raise ValueError(f"{what}: {reason_of(error)}") from error


@contextmanager
def naming_folder(name: str | os.PathLike[str], hub_words: str) -> Iterator[None]:
    """Add to a `ValueError` that it is about a folder, where `name` may mean the Hub too; `hub_words` say how."""
    try:
        yield
    except ValueError as error:
        if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(name)) and os.path.isdir(name):
            raise ValueError(f"{error}; {name} is a folder here: {hub_words}") from error
        raise


def expand_home(arguments: object) -> None:
    """
    Expand a leading `~` in the texts of an object, as a shell does where it sees one: it sees none in a recipe, in
    `--output_dir=~/runs` and in Python. A frozen dataclass may call this in its `__post_init__`.
    """
    for name, value in vars(arguments).items():
        if isinstance(value, list):
            value = [os.path.expanduser(part) if isinstance(part, str) else part for part in value]
            object.__setattr__(arguments, name, value)
        elif isinstance(value, str):
            object.__setattr__(arguments, name, os.path.expanduser(value))
