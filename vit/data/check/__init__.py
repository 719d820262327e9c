"""What is wrong with a data set: the kinds of findings, and the checks that find them."""
