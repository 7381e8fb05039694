"""From recorded numbers to files that people read."""
