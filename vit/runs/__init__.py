"""Run folders and checkpoints on disk: whole, locked, retained; knows no data set, model or task."""
