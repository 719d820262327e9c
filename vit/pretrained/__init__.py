"""Somebody else's weights: one small table of key names per checkpoint layout, and a registry of model names."""
