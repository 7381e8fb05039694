"""Find a checkpoint by its name: a folder, or `user/repo[@revision]` on the Hub. All other code takes the folder."""

import os
import re
from pathlib import Path

from . import client

_REFERENCE = re.compile(r"\w[\w.-]*/\w[\w.-]*(?:@.+)?")


def is_reference(text: str) -> bool:
    """Whether a text is `user/repo` or `user/repo@revision`, and not a local folder."""
    return _REFERENCE.fullmatch(text) is not None and not os.path.exists(text)


def find_pretrained(model_name_or_path: str | None) -> Path | None:
    """Return the folder of the model to fine-tune, as [`resolve_checkpoint`] does, or None where none is named."""
    return None if model_name_or_path is None else resolve_checkpoint(model_name_or_path)


def resolve_checkpoint(name: str) -> Path:
    """
    Return the folder `name`, or else the local copy of `user/repo[@revision]`, which is downloaded where it is missing.
    Raises `ValueError` if it is neither or has no config.json, and [`HubError`] if the Hub does not give it.
    """
    if is_reference(name):
        try:
            folder = client.download(name)
        except client.HubError as error:
            raise client.HubError(f"there is no folder {name}, and from the Hub: {error}") from error
    else:
        folder = Path(name)
    if not folder.is_dir():
        raise ValueError(f"{name} is neither a folder nor user/repo")
    if not (folder / "config.json").is_file():
        hint = f"; for the model {name} on the Hub, write {name}@main" if _REFERENCE.fullmatch(name) else ""
        raise ValueError(f"the folder {name} holds no checkpoint (no config.json){hint}")
    return folder
