"""What a run is, in types: its arguments, folder, record, metrics and history, with one reader and one writer each."""
