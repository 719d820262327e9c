"""Image sources in, answers out, in batches; knows no particular task."""
