"""Near-duplicates: copies in another size or compression, neighboring frames of a video.

Candidates share a quarter of a difference hash (dHash: which of two neighboring pixels of a tiny gray copy is
brighter), so that up to a million images need no comparison of all pairs. Small color copies then decide.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 16
"""Side of the small color copy."""
FLAT = 6.0
"""Minimum standard deviation, in gray levels, of an image that can be compared."""
BITS = 8
"""Maximum number of the 64 bits that may differ."""
ALIKE = 0.985
"""Minimum correlation of two small copies of the same scene."""
APART = 14.0
"""Maximum mean difference, in gray levels, of two small copies of the same scene."""
NEIGHBORS = 12
"""Within a group of equal quarters, sorted by the whole hash, each image is compared with this many that follow."""
SMALLEST = 32
"""Minimum shorter side, in pixels: smaller images have too little detail for the comparison."""


class Look(NamedTuple):
    """hash: 8 bytes; thumb: SIDE x SIDE x 3 bytes."""

    hash: bytes
    thumb: bytes


def look_of(pixels: np.ndarray) -> Look | None:
    """The look of an image uint8 [H, W, 3]; None if it is too flat or too small."""
    if min(pixels.shape[:2]) < SMALLEST:
        return None
    image = Image.fromarray(pixels)
    thumb = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0))
    if thumb.std(axis=(0, 1)).max() < FLAT:
        return None
    gray = np.asarray(image.resize((9, 8), Image.Resampling.BOX, reducing_gap=4.0).convert("L")).astype(np.int16)
    return Look(np.packbits(gray[:, 1:] > gray[:, :-1]).tobytes(), thumb.tobytes())


def alike(looks: list[Look]) -> np.ndarray:
    """Pairs of positions, int64 [m, 2], first < second, sorted. Finds nearly all pairs that differ in up to 3 bits, and
    many that differ in up to BITS."""
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
    """Pairs that agree in the 16 bits at `shift` and differ in at most BITS of all 64: int64 [m, 2]."""
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
