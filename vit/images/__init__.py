"""Image files to RGB pixels to normalized tensors, and drawing onto pixels; knows no data set and no task."""
