"""Changing training images: crops, geometry, colors, mixing; boxes change along."""
