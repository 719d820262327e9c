"""Anybody's weights in our models, and back: the only room that knows foreign names; knows no data and no training."""
