"""Augmentation of training images and their boxes: crops, geometry, colors, mixing."""
