"""One table of key names per checkpoint layout; opens no files."""
