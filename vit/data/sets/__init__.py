"""Data sets that readers return: images by index, with labels or boxes."""
