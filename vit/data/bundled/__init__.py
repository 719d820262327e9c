"""Bundled data: digits, scenes, and cards of public data sets."""
