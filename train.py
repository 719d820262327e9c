"""`vitral train` from a clone that need not be installed: python train.py RECIPE [--options]."""

import sys

from vit.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
