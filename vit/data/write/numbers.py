"""Box coordinates as short decimals that read back as exactly the same boxes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

DIGITS = (0, 1, 2, 3, 4, 6, 8, 10, 12)
"""Decimal places to try; numbers that need more are written in full."""


def shortest(values: np.ndarray, back: Callable[[np.ndarray], np.ndarray], boxes: np.ndarray) -> np.ndarray:
    """Round the numbers of each box as far as the box stays the same: float64 [n, 4].

    values: float64 [n, 4], boxes as a format writes them; back: converts such values to xyxy like the format's reader;
    boxes: float32 [n, 4], xyxy.
    """
    found = values.copy()
    open_rows = np.ones(len(values), bool)
    for digits in DIGITS:
        rounded = np.round(values, digits)
        same = open_rows & (back(rounded).astype(np.float32) == boxes).all(axis=1)
        found[same] = rounded[same]
        open_rows &= ~same
    return found


def plain(value: float) -> int | float:
    """Write whole numbers as integers: 40.0 -> 40."""
    return int(value) if value == int(value) else value
