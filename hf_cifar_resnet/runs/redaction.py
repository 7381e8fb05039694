"""Remove from texts what is nobody else's business: tokens, and where on this machine a folder is."""

import re
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


def redact(value: Any) -> Any:
    """Remove tokens, and all but the last part of local paths, from a text or from lists and dicts of texts."""
    return map_texts(_redact_text, value)


def map_texts(change: Callable[[str], str], value: Any) -> Any:
    """Apply a function to all texts in nested lists and dicts."""
    if isinstance(value, dict):
        return {key: map_texts(change, part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [map_texts(change, part) for part in value]
    return change(value) if isinstance(value, str) else value


def _redact_text(text: str) -> str:
    flag, equals, rest = text.partition("=") if text.startswith("--") else ("", "", text)
    if rest.startswith(("~", "..")) or PurePosixPath(rest).is_absolute() or PureWindowsPath(rest).is_absolute():
        rest = PureWindowsPath(rest).name
    return _SECRET.sub("<HF_TOKEN>", flag + equals + rest)
