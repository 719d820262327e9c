"""Split a large image into overlapping tiles, and merge their boxes.

A tile's border cuts objects. Two boxes of different tiles show one object if they agree in the region that the tiles
share; which is kept depends on which is cut. Letters: n boxes of all tiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vit.detector.boxes import iou
from vit.detector.postprocess import Found
from vit.tasks.detection.scan.fuse import partners, pooled

Window = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels of the image."""

CANDIDATES = 2000
"""Maximum number of boxes per image to compare; empty tiles give many low-score boxes."""
SAME = 0.5
"""Minimum IoU, in the region that two tiles share, for their boxes to be one object."""
EDGE = 0.01
"""A box closer to a tile's border than this fraction of its side counts as cut: boxes are inexact."""
DOUBTFUL = 0.5
"""A box below this fraction of a cut box's score neither replaces it nor extends it."""


def windows_of(size: tuple[int, int], tile: int, overlap: float) -> list[Window]:
    """The whole image of (H, W), for large objects, then evenly spread tiles that cover it, with neighbors sharing at
    least `overlap` of their side. An image that fits into one tile is a single window."""
    height, width = size
    whole = (0, 0, width, height)
    parts = [
        (left, top, min(left + tile, width), min(top + tile, height))
        for top in _starts(height, tile, overlap)
        for left in _starts(width, tile, overlap)
    ]
    return [whole, *parts] if len(parts) > 1 else [whole]


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    count = max(1, math.ceil((side - tile) / max(1.0, tile * (1 - overlap))) + 1)
    return [round(i * (side - tile) / (count - 1)) if count > 1 else 0 for i in range(count)]


def stitch(found: Sequence[Found], windows: Sequence[Window], size: tuple[int, int]) -> Found:
    """Merge the boxes of all tiles, in pixels of the image of (H, W). For each object, keep the best uncut box; if all
    are cut, take the box around them."""
    pool, owner = pooled(found, CANDIDATES)
    window = torch.tensor(windows, dtype=torch.float32)[owner]  # [n, 4]
    cut, agreement = _cut(pool.xyxy, window, size), _agreement(pool, window).numpy()
    boxes, scores, free = pool.xyxy.clone(), pool.scores.numpy(), np.ones(len(owner), bool)

    def claim(i: int, others: np.ndarray) -> list[int]:
        same = partners(agreement[i], scores, owner, free & others, SAME)
        free[same] = False
        return same

    kept = []
    # Uncut boxes first: they are better than cut ones, whatever the score.
    for i in np.argsort(cut, kind="stable").tolist():
        if not free[i]:
            continue
        kept.append(i)
        free[i] = False
        if not cut[i]:
            claim(i, (owner != owner[i]) & (~cut | (scores[i] >= DOUBTFUL * scores)))
            continue
        parts = [i]
        for part in parts:  # grows: a part may agree with one in the next tile
            parts += claim(part, ~np.isin(owner, owner[parts]) & (scores >= DOUBTFUL * scores[i]))
        boxes[i] = torch.cat([pool.xyxy[parts, :2].amin(0), pool.xyxy[parts, 2:].amax(0)])
    result = pool._replace(xyxy=boxes).take(torch.tensor(kept, dtype=torch.int64))
    return result.take(result.scores.argsort(descending=True, stable=True))


def _cut(boxes: Tensor, window: Tensor, size: tuple[int, int]) -> np.ndarray:
    """bool [n]: whether a box touches a border of its tile inside the image."""
    height, width = size
    margin = EDGE * (window[:, 2:] - window[:, :2]).amax(1, keepdim=True)
    low = (window[:, :2] > 0) & (boxes[:, :2] <= window[:, :2] + margin)
    high = (window[:, 2:] < window.new_tensor([width, height])) & (boxes[:, 2:] >= window[:, 2:] - margin)
    return (low | high).any(1).numpy()


def _agreement(pool: Found, window: Tensor) -> Tensor:
    """[n, n]: IoU of two boxes in the region that their tiles share; 0 for different classes."""
    low, high = window[:, None, :2], window[:, None, 2:]
    # Row i, column j: box j clipped to the tile of box i.
    inside = torch.cat([torch.maximum(pool.xyxy[:, :2], low), torch.minimum(pool.xyxy[:, 2:], high)], dim=-1)
    return iou(inside, inside.transpose(0, 1)) * (pool.labels[:, None] == pool.labels)
