"""From arguments, data and a model to a trained checkpoint."""
