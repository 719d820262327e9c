"""What every reader gives: images by index with their labels or boxes."""
