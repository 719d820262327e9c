"""The processes of one run, their restarts and their signals; knows no data set, model or task."""
