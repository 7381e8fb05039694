"""The revision, licence and citation of a dataset."""

import re
from pathlib import Path

from huggingface_hub import DatasetCard, try_to_load_from_cache

_BIBTEX = re.compile(r"^@\w+\s*\{.*?^\s*\}\s*$|^@\w+\s*\{[^\n]*\}\}?\s*$", re.M | re.S)


def provenance(name, revision=None):
    """
    Return a dataset's `revision`, `license` and `citation` without network access.

    Args:
        name (`str`): the Hub id or folder that it was loaded from.
        revision (`str`, *optional*): its commit on the Hub.
    """
    # `datasets` has fetched the card of a dataset on the Hub already.
    path = try_to_load_from_cache(name, "README.md", repo_type="dataset", revision=revision) if revision else None
    path = Path(path) if isinstance(path, str) else Path(name, "README.md")
    try:
        card = DatasetCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    except Exception:  # there is no file, no UTF-8 text, or no valid header
        return {"revision": revision, "license": None, "citation": None}
    licence, cited = card.data.get("license"), _BIBTEX.search(card.text)
    return {
        "revision": revision,
        "license": ", ".join(licence) if isinstance(licence, list) else licence,
        "citation": cited[0].strip() if cited else None,
    }
