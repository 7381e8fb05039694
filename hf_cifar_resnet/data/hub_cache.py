"""Which version of a dataset on the Hub is read where the Hub is out of reach: the one that was asked for, or none."""

import re
from pathlib import Path

from datasets import DatasetBuilder
from datasets.packaged_modules.cache.cache import Cache
from huggingface_hub import constants


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
        raise ValueError(f"the Hub is out of reach, and its cache here does not have the revision {revision or 'main'}")
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
