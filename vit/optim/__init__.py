"""Optimizers, parameter groups, learning rates and weight averages; knows no data and no task."""
