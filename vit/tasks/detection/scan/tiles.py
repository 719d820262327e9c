"""A large image in overlapping tiles: where they lie, and how the boxes of all of them become one set.

An object at the border of a tile is cut there. Two boxes of different tiles stand for one object when they agree in the
region that both tiles see; which of them is kept then depends on which is cut. Letters: n boxes of all tiles.
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
"""Boxes of an image that are compared with each other; tiles without an object give many of hardly any score."""
SAME = 0.5
"""IoU, in the region that two tiles share, from which their boxes are one object."""
EDGE = 0.01
"""A box that comes nearer than this share of a tile's side to its border counts as cut there: no box is exact."""
DOUBTFUL = 0.5
"""Below this share of a cut box's score another box neither takes its place nor adds to it."""


def windows_of(size: tuple[int, int], tile: int, overlap: float) -> list[Window]:
    """Tiles of side `tile` that cover an image of (H, W), evenly spread, neighbors sharing `overlap` of their side or
    more; and the whole image first, which shows what is larger than a tile. An image that fits into one tile is one."""
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
    """The boxes of all tiles, in pixels of the image of (H, W), as one set.

    Of boxes of one object the best that no tile cuts is kept. Where every tile cuts it, its parts are put together.
    """
    pool, owner = pooled(found, CANDIDATES)
    window = torch.tensor(windows, dtype=torch.float32)[owner]  # [n, 4]
    cut, agreement = _cut(pool.xyxy, window, size), _agreement(pool, window).numpy()
    boxes, scores, free = pool.xyxy.clone(), pool.scores.numpy(), np.ones(len(owner), bool)

    def taken(i: int, others: np.ndarray) -> list[int]:
        same = partners(agreement[i], scores, owner, free & others, SAME)
        free[same] = False
        return same

    kept = []
    # Whole boxes first: they are better than cut ones, whatever the score.
    for i in np.argsort(cut, kind="stable").tolist():
        if not free[i]:
            continue
        kept.append(i)
        free[i] = False
        if not cut[i]:
            taken(i, (owner != owner[i]) & (~cut | (scores[i] >= DOUBTFUL * scores)))
            continue
        parts = [i]
        for part in parts:  # which grows: a part may agree with one in the next tile
            parts += taken(part, ~np.isin(owner, owner[parts]) & (scores >= DOUBTFUL * scores[i]))
        boxes[i] = torch.cat([pool.xyxy[parts, :2].amin(0), pool.xyxy[parts, 2:].amax(0)])
    result = pool._replace(xyxy=boxes).take(torch.tensor(kept, dtype=torch.int64))
    return result.take(result.scores.argsort(descending=True, stable=True))


def _cut(boxes: Tensor, window: Tensor, size: tuple[int, int]) -> np.ndarray:
    """bool [n]: which boxes touch a border of their tile that is not the image's."""
    height, width = size
    margin = EDGE * (window[:, 2:] - window[:, :2]).amax(1, keepdim=True)
    low = (window[:, :2] > 0) & (boxes[:, :2] <= window[:, :2] + margin)
    high = (window[:, 2:] < window.new_tensor([width, height])) & (boxes[:, 2:] >= window[:, 2:] - margin)
    return (low | high).any(1).numpy()


def _agreement(pool: Found, window: Tensor) -> Tensor:
    """[n, n]: IoU of two boxes of a class where both tiles see them, 0 for other classes."""
    low, high = window[:, None, :2], window[:, None, 2:]

    # Row i, column j: box j within the tile of box i.
    inside = torch.cat([torch.maximum(pool.xyxy[:, :2], low), torch.minimum(pool.xyxy[:, 2:], high)], dim=-1)
    return iou(inside, inside.transpose(0, 1)) * (pool.labels[:, None] == pool.labels)
