"""Images that look alike: copies in another size or compression, neighbors in a video.

Candidates share a quarter of a difference hash (dHash: of neighboring pixels of a tiny gray copy, which one is
brighter), which pairs of up to a million images are found by without comparing all; a small copy in color decides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 16
"""Of the small copy in color."""
FLAT = 6.0
"""Gray levels: what varies less than this has no look of its own."""
BITS = 8
"""So many of the 64 bits may differ."""
ALIKE = 0.985
"""Correlation of two small copies from which they show the same."""
APART = 14.0
"""Gray levels: mean difference of two small copies up to which they do."""
NEIGHBORS = 12
"""Within a group of equal quarters, each is compared with so many that follow it in the order of the whole hash."""
SMALLEST = 32
"""Pixels: images with a shorter side below this hold too little to be told apart by a small copy."""


class Look(NamedTuple):
    """hash: 8 bytes; thumb: SIDE x SIDE x 3 bytes."""

    hash: bytes
    thumb: bytes


def look_of(pixels: np.ndarray) -> Look | None:
    """Of an image uint8 [H, W, 3]; None where it is too flat or small to have one."""
    if min(pixels.shape[:2]) < SMALLEST:
        return None
    image = Image.fromarray(pixels)
    thumb = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0))
    if thumb.std(axis=(0, 1)).max() < FLAT:
        return None
    gray = np.asarray(image.resize((9, 8), Image.Resampling.BOX, reducing_gap=4.0).convert("L")).astype(np.int16)
    return Look(np.packbits(gray[:, 1:] > gray[:, :-1]).tobytes(), thumb.tobytes())


def alike(looks: list[Look]) -> np.ndarray:
    """Pairs of positions, int64 [m, 2], first < second, in order. Nearly all of those that differ in up to 3 bits are
    found, and many that differ in up to BITS."""
    if len(looks) < 2:
        return np.empty((0, 2), np.int64)
    words = np.frombuffer(b"".join(look.hash for look in looks), ">u8").astype(np.uint64)
    thumbs = np.frombuffer(b"".join(look.thumb for look in looks), np.uint8).reshape(len(looks), -1)
    pairs = [_candidates(words, np.uint64(shift)) for shift in (0, 16, 32, 48)]
    candidates = np.unique(np.concatenate(pairs), axis=0)
    if len(candidates) == 0:
        return candidates
    one, two = candidates.T
    kept = np.zeros(len(candidates), bool)
    for first in range(0, len(candidates), 65536):
        part = slice(first, first + 65536)
        a, b = thumbs[one[part]].astype(np.float32), thumbs[two[part]].astype(np.float32)
        near = np.abs(a - b).mean(axis=1) <= APART
        a -= a.mean(axis=1, keepdims=True)
        b -= b.mean(axis=1, keepdims=True)
        scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        kept[part] = near & ((a * b).sum(axis=1) >= ALIKE * np.maximum(scale, 1e-6))
    return candidates[kept]


def _candidates(words: np.ndarray, shift: np.uint64) -> np.ndarray:
    """Pairs that agree in the 16 bits at `shift` and differ in no more than BITS of all: int64 [m, 2]."""
    quarter = (words >> shift) & np.uint64(0xFFFF)
    order = np.lexsort((words, quarter))
    found = [np.empty((0, 2), np.int64)]
    for step in range(1, min(NEIGHBORS, len(words) - 1) + 1):
        one, two = order[:-step], order[step:]
        same = quarter[one] == quarter[two]
        one, two = one[same], two[same]
        close = np.bitwise_count(words[one] ^ words[two]) <= BITS
        found.append(np.sort(np.stack([one[close], two[close]], axis=1), axis=1))
    return np.concatenate(found)
