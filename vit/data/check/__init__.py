"""Checks of a data set: the kinds of findings, and the code that finds them."""
