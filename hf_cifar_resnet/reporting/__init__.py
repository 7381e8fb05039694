"""From the record of a run to files that people read."""
