"""`vitral eval` from a clone that need not be installed: python eval.py RUN [--options]."""

import sys

from vit.__main__ import main

if __name__ == "__main__":
    main(["eval", *sys.argv[1:]])
