"""Read boxes from tables: CSV, JSON lines, Parquet, tar shards."""
