"""Opening weight files of every kind, local or remote; knows no model."""
