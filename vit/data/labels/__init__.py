"""Readers of images with labels: class folders, manifests, Parquet, tar shards, torchvision."""
