"""Predictions of a layer -> boxes in pixels of the images.

Letters: B batch, Q queries, C classes, n boxes of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vit.detector.boxes import to_xyxy
from vit.detector.output import Predictions

LIMIT = 300
"""Boxes kept for each image; COCO's metrics use the best 100 of each class."""


class Found(NamedTuple):
    """Boxes of one image, best first."""

    xyxy: Tensor
    """float32 [n, 4], pixels of the image, within it."""
    scores: Tensor
    """float32 [n]"""
    labels: Tensor
    """int64 [n]"""
    dropped: int
    """How many predictions were not finite and were left out."""

    def take(self, rows: Tensor | slice) -> Found:
        """A selection of the boxes: positions int64 [m], a mask bool [n] or a slice."""
        return Found(self.xyxy[rows], self.scores[rows], self.labels[rows], self.dropped)


def find_boxes(
    predictions: Predictions,
    input_size: tuple[int, int],
    placements: Sequence[Sequence[float]],
    sizes: Sequence[tuple[int, int]],
    *,
    limit: int = LIMIT,
) -> list[Found]:
    """The `limit` best (query, class) pairs of each image.

    input_size: (H, W) of the model's input. placements: (scale_x, scale_y, left, top) of each image in it; sizes:
    (H, W) of the images.
    """
    logits, boxes = predictions.logits.float(), to_xyxy(predictions.boxes.float())
    height, width = input_size
    boxes = boxes * boxes.new_tensor([width, height, width, height])
    # Checked before boxes are cut at the border, which would make infinite boxes finite.
    finite = boxes.isfinite().all(-1) & logits.isfinite().all(-1)  # [B, Q]
    return [
        _best(row, _in_image(box, place, size), ok, limit)
        for row, box, ok, place, size in zip(logits.sigmoid(), boxes, finite, placements, sizes, strict=True)
    ]


def suppress(found: Found, overlap: float) -> Found:
    """Without every box that a better one of its class overlaps by an IoU above `overlap` (non-maximum suppression)."""
    from torchvision.ops import batched_nms

    return found.take(batched_nms(found.xyxy, found.scores, found.labels, overlap))


def _in_image(boxes: Tensor, place: Sequence[float], size: tuple[int, int]) -> Tensor:
    """xyxy in pixels of the input -> in pixels of the image, cut at its border; NaN stays NaN."""
    scale_x, scale_y, left, top = place
    boxes = (boxes - boxes.new_tensor([left, top, left, top])) / boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
    height, width = size
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def _best(scores: Tensor, boxes: Tensor, finite: Tensor, limit: int) -> Found:
    classes = scores.shape[1]
    scores = torch.where(finite[:, None], scores, -1.0)
    values, index = scores.flatten().topk(min(limit, scores.numel()))
    values, index = values[values >= 0], index[values >= 0]
    return Found(boxes[index // classes], values, index % classes, int((~finite).sum()))
