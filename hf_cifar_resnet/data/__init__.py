"""From a dataset's name to augmented batches."""

import os

# Albumentations asks a package index for updates when imported, unless told otherwise.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
