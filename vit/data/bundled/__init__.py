"""What comes with the package: the digits, the scenes, and the cards of public data sets."""
