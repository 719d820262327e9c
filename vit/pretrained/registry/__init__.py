"""Which public models there are, where their weights are and what they cost; opens no weights itself."""
