"""How good a model is: metrics as `evaluate.Metric`, computed exactly over a split."""
