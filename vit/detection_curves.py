"""What COCO's figures do not say: the threshold with the highest F1, and which class is taken for which.

Letters: K classes, n objects, m boxes of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

IOU = 0.5


class Matched(NamedTuple):
    """The boxes of one image after matching within each class, best score first."""

    scores: np.ndarray
    """[m]"""
    labels: np.ndarray
    """[m]"""
    right: np.ndarray
    """bool [m]: found an object that no better box had found."""
    truths: np.ndarray
    """[n]: labels of the objects, without crowds."""

    def of_class(self, k: int) -> Matched:
        mine = self.labels == k
        return Matched(self.scores[mine], self.labels[mine], self.right[mine], self.truths[self.truths == k])


def match_image(truth: Any, found: Any) -> Matched:
    """Greedy matching at IoU 0.5 as COCO does it: by falling score, each object once. Boxes on a crowd, and on nothing
    else, count neither as right nor as wrong: they are left out.

    truth: boxes, labels, crowd; found: boxes, scores, labels (see `vit.detection_metrics`).
    """
    order = np.argsort(-found.scores, kind="stable")
    boxes, scores, labels = found.boxes[order], found.scores[order], found.labels[order]
    right, ignored = np.zeros(len(boxes), bool), np.zeros(len(boxes), bool)
    for k in np.unique(labels):
        mine, objects = np.flatnonzero(labels == k), np.flatnonzero((truth.labels == k) & ~truth.crowd)
        crowds = truth.boxes[(truth.labels == k) & truth.crowd]
        overlap = iou_matrix(boxes[mine], truth.boxes[objects])
        free = np.ones(len(objects), bool)
        for row, i in enumerate(mine):
            candidates = np.where(free, overlap[row], 0.0)
            if len(candidates) and candidates.max() >= IOU:
                free[candidates.argmax()] = False
                right[i] = True
        if len(crowds):
            ignored[mine] = ~right[mine] & (share_within(boxes[mine], crowds).max(axis=1) >= IOU)
    keep = ~ignored
    return Matched(scores[keep], labels[keep], right[keep], truth.labels[~truth.crowd])


def best_threshold(matched: Sequence[Matched]) -> tuple[float | None, float | None]:
    """The score at which 2 TP / (boxes + objects) is highest, and that F1; None without objects or right boxes."""
    objects = sum(len(m.truths) for m in matched)
    scores = np.concatenate([m.scores for m in matched]) if matched else np.empty(0)
    right = np.concatenate([m.right for m in matched]) if matched else np.empty(0, bool)
    if not objects or not right.any():
        return None, None
    order = np.argsort(-scores, kind="stable")
    hits = right[order].cumsum()
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + objects)
    # Boxes of equal score stand or fall together: only the last of them is a threshold.
    last = np.r_[scores[order][1:] != scores[order][:-1], True]
    best = int(np.where(last, f1, -1.0).argmax())
    return float(scores[order][best]), float(f1[best])


def confusion(truths: Sequence[Any], found: Sequence[Any], classes: int, threshold: float) -> np.ndarray:
    """int64 [K + 1, K + 1] at a score threshold: row = true class, column = predicted class, whatever the class of the
    box that overlaps an object most; the last row is boxes on nothing, the last column objects that were missed."""
    table = np.zeros((classes + 1, classes + 1), np.int64)
    for truth, boxes in zip(truths, found, strict=True):
        chosen = boxes.scores >= threshold
        kept, labels = boxes.boxes[chosen], boxes.labels[chosen]
        objects, wanted = truth.boxes[~truth.crowd], truth.labels[~truth.crowd]
        overlap = iou_matrix(kept, objects)
        free_box, free_object = np.ones(len(kept), bool), np.ones(len(objects), bool)
        # Pairs of the right class first: a wrong box must not take the place of a right one beside it.
        bonus = overlap + (labels[:, None] == wanted[None])
        for flat in np.argsort(-bonus, axis=None, kind="stable"):
            i, j = np.unravel_index(flat, overlap.shape)
            if overlap[i, j] >= IOU and free_box[i] and free_object[j]:
                free_box[i] = free_object[j] = False
                table[wanted[j], labels[i]] += 1
        if truth.crowd.any() and len(kept):
            free_box &= share_within(kept, truth.boxes[truth.crowd]).max(axis=1) < IOU
        np.add.at(table, (np.full(free_box.sum(), classes), labels[free_box].astype(int)), 1)
        np.add.at(table, (wanted[free_object].astype(int), np.full(free_object.sum(), classes)), 1)
    return table


def iou_matrix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """xyxy [m, 4] and [n, 4] -> [m, n]."""
    overlap = _overlap(first, second)
    areas = _area(first)[:, None] + _area(second)
    return overlap / np.maximum(areas - overlap, 1e-12)


def share_within(boxes: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """The share of each box [m, 4] that lies in each crowd [n, 4] -> [m, n]: COCO's measure for crowds."""
    return _overlap(boxes, crowds) / np.maximum(_area(boxes)[:, None], 1e-12)


def _overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.maximum(high - low, 0).prod(axis=2)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
