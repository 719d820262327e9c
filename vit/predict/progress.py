"""A progress counter for commands that have no run folder to log to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

SECONDS = 30
"""Between two lines where there is no terminal: short work prints nothing, long work does not seem to hang."""


def clear() -> None:
    """Take the counter off the terminal, before other lines are printed."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def progress(total: int) -> Callable[[int], None]:
    """A function to call with the number of images done: it prints on stderr, a counter on a terminal, else lines."""
    last_line = time.monotonic()

    def tick(done: int) -> None:
        nonlocal last_line
        if sys.stderr.isatty():
            print(f"\r{done} of {total} images", end="", file=sys.stderr, flush=True)
            if done >= total:
                clear()
        elif time.monotonic() - last_line >= SECONDS:
            last_line = time.monotonic()
            print(f"{done} of {total} images", file=sys.stderr, flush=True)

    return tick
