"""Readers of images with boxes, and the one place where their boxes are judged."""
