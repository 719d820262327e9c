"""Where bytes lie when many images share a file: tar shards, Parquet, downloads."""
