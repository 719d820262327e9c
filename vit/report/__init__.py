"""Figures on the screen and in PNG files; knows no data set, model or task."""
