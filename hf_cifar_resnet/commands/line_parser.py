"""The parser of every command, apart from modules that take seconds to import."""

import argparse
from argparse import SUPPRESS, Action, ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import SequenceMatcher, get_close_matches
from typing import Any, NoReturn

from ..errors import expand_home

_flags: ContextVar[set[str] | None] = ContextVar("flags", default=None)


@contextmanager
def flags_of_command() -> Iterator[set[str]]:
    """Yield a set that gets the flags of the command that runs within the context: of the first parser that parses."""
    flags: set[str] = set()
    token = _flags.set(flags)
    try:
        yield flags
    finally:
        _flags.reset(token)


class LineParser(argparse.ArgumentParser):
    """
    An argument parser that raises `ValueError`, expands a leading `~` of its own options (no shell does it in
    `--output=~/file`), refuses empty texts and abbreviated flags, and suggests the flag that an unknown one may mean.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.flags: dict[str, Action] = {}
        self._texts: set[str] = set()  # arguments that are no paths
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def add_argument(self, *names: str, group: Any = None, is_text: bool = False, **settings: Any) -> Action:  # type: ignore[override]
        """
        Add an argument, in `--help` under the heading of a `group` made by `add_argument_group`, with its default
        unless the help states one. One that `is_text` is no path, and keeps a leading `~`.
        """
        default, help = settings.get("default"), settings.get("help")
        takes_value = settings.get("action", "append") == "append"
        if help and takes_value and default != SUPPRESS and "default:" not in help:
            settings["help"] = with_default(help, default)
        action = group.add_argument(*names, **settings) if group else super().add_argument(*names, **settings)
        if is_text:
            self._texts.add(action.dest)
        self.flags |= dict.fromkeys(action.option_strings, action)
        return action

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Namespace:  # type: ignore[override]
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            raise ValueError(self.describe_unknown(rest[0]))
        return parsed

    def describe_unknown(self, name: str) -> str:
        """Return the message for an argument that there is not, on the command line or in a file."""
        names = [flag[2:] for flag in self.flags if flag.startswith("--") and flag != "--help"]
        near = suggest(name.split("=")[0].lstrip("-").replace("-", "_"), names)
        return f"unknown argument {name}; " + (f"did you mean --{near}?" if near else "--help lists all")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Namespace, list[str]]:  # type: ignore[override]
        flags = _flags.get()
        if flags is not None and not flags:
            flags.update(self.flags)
        parsed, rest = super().parse_known_args(args, namespace)
        for name, value in vars(parsed).items():
            # An unset shell variable gives an empty text, which as a path would mean the current folder.
            if isinstance(value, str) and not value.strip() and value != self.get_default(name):
                flag = f"--{name}" if f"--{name}" in self.flags else name
                raise ValueError(f"{flag} must not be empty: give it a value, or leave it out")
        kept = {name: value for name, value in vars(parsed).items() if name in self._texts}
        self.expand_home(parsed)
        vars(parsed).update(kept)
        return parsed, rest

    def expand_home(self, parsed: Namespace) -> None:
        expand_home(parsed)


def with_default(help: str, default: Any) -> str:
    """Return the help of an argument with its default, if that is a value."""
    if default in (None, [], ()):
        return help
    values = default if isinstance(default, (list, tuple)) else [default]
    # A member of an enumeration is what one types for it.
    text = " ".join(str(getattr(value, "value", value)) for value in values)
    return help + f" (default: {text})".replace("%", "%%")


def suggest(given: str, names: Sequence[str]) -> str | None:
    """
    Return the name that a wrong one most likely means, or None: one that is spelled almost alike; or whose initials it
    is (`lr`), or that has its words (`epochs`, `batch_size`), or else its last ones (`max_epochs`).
    """
    if near := get_close_matches(given, names, n=1, cutoff=0.85):
        return near[0]
    words = given.split("_")
    for text in ("_".join(words[start:]) for start in range(len(words))):
        for name in names:
            if text == "".join(word[:1] for word in name.split("_")):
                return name
        if having := [name for name in names if _has_words(name, text)]:
            return max(having, key=lambda name: (name.startswith(text), SequenceMatcher(None, text, name).ratio()))
    near = get_close_matches(given, names, n=1, cutoff=0.7)
    return near[0] if near else None


def _has_words(name: str, text: str) -> bool:
    """Whether a name has all words of another one. Longer words may have another end, such as a plural's."""

    def is_same(one: str, other: str) -> bool:
        longer, shorter = sorted((one, other), key=len, reverse=True)
        return one == other or (len(shorter) >= 4 and longer.startswith(shorter))

    return all(any(is_same(word, part) for part in name.split("_")) for word in text.split("_"))


def positive(text: str, limit: int | None = None) -> int:
    """Parse an integer of at least 1, and at most `limit`, as the `type` of an argument."""
    number = int(text)
    if number < 1 or (limit and number > limit):
        allowed = f"from 1 to {limit}" if limit else "at least 1"
        raise ArgumentTypeError(f"must be {allowed}, got {number}")
    return number
