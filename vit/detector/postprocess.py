"""From a layer's predictions to boxes in pixels of the images.

Letters: B batch, Q queries, C classes, n boxes of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vit.boxes import to_xyxy
from vit.detection_losses import Predictions

LIMIT = 300
"""Boxes kept for an image; COCO's figures look at the best 100 of each class."""


class Found(NamedTuple):
    """Boxes of one image, best first."""

    xyxy: Tensor
    """float32 [n, 4], pixels of the image, within it."""
    scores: Tensor
    """float32 [n]"""
    labels: Tensor
    """int64 [n]"""
    dropped: int
    """Predictions that were not finite and were left out."""


def find_boxes(
    predictions: Predictions,
    input_size: tuple[int, int],
    placements: Sequence[Sequence[float]],
    sizes: Sequence[tuple[int, int]],
    *,
    limit: int = LIMIT,
    threshold: float = 0.0,
    nms: float | None = None,
) -> list[Found]:
    """The `limit` best (query, class) pairs of each image.

    input_size: (H, W) of the model's input. placements: (scale_x, scale_y, left, top) of each image in it; sizes:
    (H, W) of the images. nms: IoU above which the worse of two boxes of a class is left out.
    """
    logits, boxes = predictions.logits.float(), to_xyxy(predictions.boxes.float())
    height, width = input_size
    boxes = boxes * boxes.new_tensor([width, height, width, height])
    # Before anything is cut at a border, which would make an infinite box a finite one.
    finite = boxes.isfinite().all(-1) & logits.isfinite().all(-1)  # [B, Q]
    found = []
    for row, box, ok, place, size in zip(logits.sigmoid(), boxes, finite, placements, sizes, strict=True):
        found.append(_best(row, _in_image(box, place, size), ok, limit, threshold, nms))
    return found


def _in_image(boxes: Tensor, place: Sequence[float], size: tuple[int, int]) -> Tensor:
    """xyxy in pixels of the input -> in pixels of the image, cut at its border; NaN stays NaN."""
    scale_x, scale_y, left, top = place
    boxes = (boxes - boxes.new_tensor([left, top, left, top])) / boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
    height, width = size
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def _best(scores: Tensor, boxes: Tensor, finite: Tensor, limit: int, threshold: float, nms: float | None) -> Found:
    classes = scores.shape[1]
    scores = torch.where(finite[:, None], scores, -1.0)
    values, index = scores.flatten().topk(min(limit, scores.numel()))
    keep = (values >= 0) & (values > threshold) if threshold > 0 else values >= 0
    values, index = values[keep], index[keep]
    chosen, labels = boxes[index // classes], index % classes
    if nms is not None:
        from torchvision.ops import batched_nms

        kept = batched_nms(chosen, values, labels, nms)
        chosen, values, labels = chosen[kept], values[kept], labels[kept]
    return Found(chosen, values, labels, int((~finite).sum()))
