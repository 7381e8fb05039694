"""Datasets, their splits, and augmented batches."""

import os

# Albumentations looks for updates on the network when it is imported, unless this is set.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
