"""Using a trained model: predict, export, show."""
