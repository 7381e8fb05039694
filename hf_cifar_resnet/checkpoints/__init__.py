"""Saving, loading and resuming checkpoints."""
