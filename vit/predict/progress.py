"""A counter for work on many images that has no run folder to log to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

SECONDS = 30
"""Between two lines where there is no terminal: short work says nothing, long work does not seem to hang."""


def clear() -> None:
    """Take the counter off the terminal, before other lines are printed."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def progress(total: int) -> Callable[[int], None]:
    """To be called with the number of images done so far: a counter on the terminal, lines elsewhere, on stderr."""
    said = time.monotonic()

    def tick(done: int) -> None:
        nonlocal said
        if sys.stderr.isatty():
            print(f"\r{done} of {total} images", end="", file=sys.stderr, flush=True)
            if done >= total:
                clear()
        elif time.monotonic() - said >= SECONDS:
            said = time.monotonic()
            print(f"{done} of {total} images", file=sys.stderr, flush=True)

    return tick
