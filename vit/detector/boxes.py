"""Boxes: their two formats, areas, IoU and GIoU. Leading dimensions are free; the last one holds a box.

cxcywh is (center x, center y, width, height); xyxy is (left, top, right, bottom). Letters: N, M boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_xyxy(boxes: Tensor) -> Tensor:
    """cxcywh [..., 4] -> xyxy [..., 4]."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def to_cxcywh(boxes: Tensor) -> Tensor:
    """xyxy [..., 4] -> cxcywh [..., 4]."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """xyxy [..., 4] -> [...]; 0 for a box whose right edge is left of its left one."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of xyxy boxes, pair by pair: [..., 4] and [..., 4] -> [...], with broadcasting.

    0 where both boxes are empty. `iou(a[:, None], b)` is the matrix [N, M].
    """
    overlap, union = _overlap_and_union(first, second)
    return overlap / union.clamp(min=torch.finfo(union.dtype).tiny)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalized IoU (Rezatofighi et al. 2019, algorithm 1) of xyxy boxes, pair by pair as in `iou`; in -1..1.

    It has a gradient even where the boxes do not overlap.
    """
    tiny = torch.finfo(first.dtype).tiny
    overlap, union = _overlap_and_union(first, second)
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    hull = (high - low).clamp(min=0).prod(-1)
    return overlap / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def _overlap_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    return overlap, area(first) + area(second) - overlap
