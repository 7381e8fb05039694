"""From a dataset's name to augmented batches."""
