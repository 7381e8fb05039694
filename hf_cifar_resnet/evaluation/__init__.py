"""Metrics of a model over a split, and what it gets wrong."""
