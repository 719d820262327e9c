"""Test-time augmentation of a detector: fuse the boxes of an image at several sizes and mirrored.

Letters: V views, n boxes of one image from all views.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vit.detector.boxes import iou
from vit.detector.output import Predictions
from vit.detector.postprocess import Found
from vit.tasks.detection.scan.fuse import partners, pooled

# The first, 1, is exact; the others are mild, since the model was trained at 1.
SCALES = (1.0, 1.15, 0.87)
SAME = 0.55
"""Minimum IoU for boxes of two views to be one object (the value of the paper in `fuse`)."""


class View(NamedTuple):
    size: tuple[int, int]
    """(H, W) of the input."""
    flip: bool


def views_of(size: tuple[int, int], divisor: int, flip: bool, scales: Sequence[float] = SCALES) -> list[View]:
    """Views of an input of `size` (H, W) at all scales, in multiples of `divisor`; also mirrored if `flip`."""
    sizes = [tuple(max(1, round(side * scale / divisor)) * divisor for side in size) for scale in scales]
    # A small input may have the same size at two scales.
    different = dict.fromkeys(sizes)
    return [View((h, w), mirrored) for mirrored in ((False, True) if flip else (False,)) for h, w in different]


def seen(images: Tensor, view: View) -> Tensor:
    """[B, 3, H, W] -> [B, 3, h, w] of the view."""
    if images.shape[-2:] != view.size:
        images = F.interpolate(images, view.size, mode="bilinear", align_corners=False, antialias=True)
    return images.flip(3) if view.flip else images


def unseen(predictions: Predictions, view: View) -> Predictions:
    """Map predictions on a view back to the image. Boxes are relative to the sides, so only mirroring matters."""
    if not view.flip:
        return predictions
    x, y, w, h = predictions.boxes.unbind(-1)
    return predictions._replace(boxes=torch.stack([1 - x, y, w, h], dim=-1))


def fuse(found: Sequence[Found]) -> Found:
    """Merge the boxes of V views of one image (weighted boxes fusion, Solovyev et al. 2021).

    A cluster has at most one box per view, the one that agrees most with its best box. The fused box is their mean,
    weighted by score; its score is their sum divided by V, so that objects in few views rank lower.
    """
    pool, owner = pooled(found)
    same = (iou(pool.xyxy[:, None], pool.xyxy) * (pool.labels[:, None] == pool.labels)).numpy()
    values, free = pool.scores.numpy(), np.ones(len(owner), bool)
    heads, boxes, scores = [], [], []
    for i in range(len(owner)):
        if free[i]:
            cluster = [i, *partners(same[i], values, owner, free & (owner != owner[i]), SAME)]
            free[cluster] = False
            weights, members = pool.scores[cluster].clamp(min=1e-9), pool.xyxy[cluster]
            heads.append(i)
            mean = (members * weights[:, None]).sum(0) / weights.sum()
            boxes.append(mean.clamp(members.amin(0), members.amax(0)))  # rounding must not leave the image
            scores.append(weights.sum() / len(found))
    if not heads:
        return pool
    fused = Found(torch.stack(boxes), torch.stack(scores), pool.labels[heads], pool.dropped)
    return fused.take(fused.scores.argsort(descending=True, stable=True))
