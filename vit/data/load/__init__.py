"""From a set of images to batches: sampling, readers, workers, caches."""
