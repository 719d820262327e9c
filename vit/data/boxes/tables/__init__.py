"""Readers of boxes in tables: CSV, JSON lines, Parquet, tar shards."""
