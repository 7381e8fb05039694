"""What a run is: its folder, its record (run.json), its metrics (metrics.json) and its history (history.csv)."""
