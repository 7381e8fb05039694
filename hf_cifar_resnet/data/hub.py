"""What of a dataset comes from the Hub: the revision that is read offline, and the card."""

import re
from pathlib import Path
from typing import Any

import yaml
from datasets import DatasetBuilder
from datasets.packaged_modules.cache.cache import Cache
from huggingface_hub import DatasetCard, constants, try_to_load_from_cache

from ..errors import one_line

# What huggingface_hub raises for metadata that are not valid.
_CARD_ERRORS = (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError)
_BIBTEX = re.compile(r"^@\w+\s*\{.*?^\s*\}\s*$|^@\w+\s*\{[^\n]*\}\}?\s*$", re.M | re.S)


def of_revision(builder: DatasetBuilder, name: str, config_name: str | None, revision: str | None) -> DatasetBuilder:
    """
    Return the builder of the revision that was asked for: `builder` itself if the Hub was asked. Without the Hub,
    `datasets` takes the version that was cached last, whatever the revision. Raises `ValueError` if the cache does not
    have the right one.

    Args:
        builder: what `datasets.load_dataset_builder` returned.
        name: a Hub id.
        config_name, revision: as they were given.
    """
    if not isinstance(builder, Cache):
        return builder
    commit = _cached_commit(name, revision or "main")
    if commit is None and revision is None:  # any version will do
        return builder
    versions = Path(builder.cache_dir).parents[2].glob(f"*/*/{commit}")
    # The configuration is that of the version that was cached last, if none was given.
    found = sorted(versions, key=lambda folder: folder.parts[-3] != builder.config.name)
    if not found or config_name not in (None, found[0].parts[-3]):
        raise ValueError(
            f"the dataset {name} cannot be loaded from the Hub: it is out of reach, and the cache here does not have "
            f"the revision {revision or 'main'}; give a local folder instead"
        )
    *_, config, version, commit = found[0].parts
    return Cache(repo_id=name, dataset_name=builder.dataset_name, config_name=config, version=version, hash=commit)


def _cached_commit(name: str, revision: str) -> str | None:
    """Return the commit that a branch or tag was when it was last asked for, a full commit as it is, or None."""
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    # https://huggingface.co/docs/huggingface_hub/guides/manage-cache describes this file.
    file = Path(constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}", "refs", revision)
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


# The card


def read_card(path: str | Path) -> dict[str, Any]:
    """Return the metadata in a dataset's README.md. Raises `ValueError` if they are not valid."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    if not text.lstrip().startswith("---"):  # of which huggingface_hub would warn
        return {}
    try:
        return DatasetCard(text, ignore_metadata_errors=True).data.to_dict()
    except _CARD_ERRORS as error:
        raise ValueError(f"the metadata at the top of {path} are not valid YAML: {one_line(error)}") from error


def provenance(name: str, revision: str | None = None) -> dict[str, str | None]:
    """
    Return a dataset's `revision`, `license` and `citation` without network access.

    Args:
        name (`str`): the Hub id or folder that it was loaded from.
        revision (`str`, *optional*): its commit on the Hub.
    """
    # `datasets` has fetched the card of a dataset on the Hub already.
    cached = try_to_load_from_cache(name, "README.md", repo_type="dataset", revision=revision) if revision else None
    path = Path(cached) if isinstance(cached, str) else Path(name, "README.md")
    try:
        card = DatasetCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except (OSError, *_CARD_ERRORS):  # there is no file, no UTF-8 text, or no valid header
        return {"revision": revision, "license": None, "citation": None}
    license, cited = card.data.get("license"), _BIBTEX.search(card.text)
    return {
        "revision": revision,
        "license": ", ".join(license) if isinstance(license, list) else license,
        "citation": cited[0].strip() if cited else None,
    }
