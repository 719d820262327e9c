"""Read images with boxes, and validate the boxes in one place."""
