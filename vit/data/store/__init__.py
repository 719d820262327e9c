"""Storage for many images per file: tar shards, Parquet, downloads."""
