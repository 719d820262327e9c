"""Our weights under other libraries' names, with proof that they compute the same; knows no training."""
