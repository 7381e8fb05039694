"""Read the fields of a JSON file of a run with their types, so that a damaged file is one clear line."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..documents import MAX_JSON, read_json
from ..errors import explained


class Fields:
    """
    The fields of an object in a JSON file. Each method returns the field of that name, or raises `ValueError`, which
    names the file and the field, if it is missing or of another type.

    Args:
        content: the object.
        file: the name of the file, for messages.
        place: where in the file the object stands, such as `dataset.`
    """

    def __init__(self, content: Mapping[str, Any], file: str | Path, place: str = ""):
        self.content: Mapping[str, Any] = content
        self.file: str | Path = file
        self.place: str = place

    @classmethod
    def read(cls, path: str | Path, max_size: int = MAX_JSON) -> "Fields":
        """
        Read the object in a JSON file of at most `max_size` bytes. Raises `OSError`, or `ValueError` if it is no JSON
        object.
        """
        with explained(f"{path} is damaged", ValueError):
            content = read_json(path, max_size)
        return cls(content, path)

    def __contains__(self, name: str) -> bool:
        """Whether there is a field that is not null."""
        return self.content.get(name) is not None

    def text(self, name: str) -> str:
        return self._typed(name, str, "a string")

    def boolean(self, name: str) -> bool:
        return self._typed(name, bool, "true or false")

    def integer(self, name: str) -> int:
        value = self.number(name)
        if value != int(value):
            raise self._wrong(name, "a whole number")
        return int(value)

    def number(self, name: str, *, finite: bool = True) -> float:
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._wrong(name, "a number")
        try:
            is_finite = math.isfinite(value)
        except OverflowError:  # an integer beyond all floats
            raise self._wrong(name, "a finite number") from None
        if finite and not is_finite:
            raise self._wrong(name, "a finite number")
        return value

    def texts(self, name: str) -> list[str]:
        return [self._inner(name).text(str(position)) for position in range(len(self._list(name)))]

    def mapping(self, name: str) -> dict[str, Any]:
        """Return an object as it is, or an empty one if there is none."""
        return dict(self._typed(name, dict, "an object")) if name in self else {}

    def section(self, name: str) -> "Fields":
        return Fields(self._typed(name, dict, "an object"), self.file, f"{self.place}{name}.")

    def sections(self, name: str) -> list["Fields"]:
        return [self._inner(name).section(str(position)) for position in range(len(self._list(name)))]

    def optional_text(self, name: str) -> str | None:
        return self.text(name) if name in self else None

    def optional_number(self, name: str, *, finite: bool = True) -> float | None:
        return self.number(name, finite=finite) if name in self else None

    def _list(self, name: str) -> list[Any]:
        return self._typed(name, list, "a list")

    def _inner(self, name: str) -> "Fields":
        """Return the members of a list by their positions."""
        members = {str(position): value for position, value in enumerate(self._list(name))}
        return Fields(members, self.file, f"{self.place}{name}.")

    def _typed(self, name: str, kind: type, expected: str) -> Any:
        value = self._get(name)
        if not isinstance(value, kind):
            raise self._wrong(name, expected)
        return value

    def _get(self, name: str) -> Any:
        if name not in self.content:
            raise ValueError(f"{self.file} is damaged: it lacks {self.place}{name}")
        return self.content[name]

    def _wrong(self, name: str, expected: str) -> ValueError:
        found = repr(self.content[name])
        shown = found if len(found) <= 40 else f"{found[:40]}..."
        return ValueError(f"{self.file} is damaged: {self.place}{name} must be {expected}, got {shown}")
