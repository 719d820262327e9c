"""Read labeled images: class folders, manifests, Parquet, tar shards, torchvision."""
