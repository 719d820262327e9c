"""Other libraries' weights in our models, and back: the only room that knows their names; no data, no training."""
