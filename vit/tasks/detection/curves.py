"""Metrics beyond COCO's: the score threshold with the highest F1, and the confusion matrix.

Letters: K classes, n objects, m boxes of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

IOU = 0.5


class Matched(NamedTuple):
    """The boxes of one image after matching within each class, best score first."""

    rows: np.ndarray
    """int64 [m]: positions among the detections."""
    scores: np.ndarray
    """[m]"""
    labels: np.ndarray
    """[m]"""
    objects: np.ndarray
    """int64 [m]: position in the truth of the matched object; -1 for none."""
    truths: np.ndarray
    """[n]: labels of the objects, without crowds."""

    @property
    def right(self) -> np.ndarray:
        """bool [m]"""
        return self.objects >= 0

    def mistakes(self, threshold: float) -> int:
        """The number of false positives and missed objects at a score threshold."""
        chosen = self.scores >= threshold
        return int(chosen.sum() + len(self.truths) - 2 * (chosen & self.right).sum())


class Pool(NamedTuple):
    """The boxes of all images, best score first."""

    scores: np.ndarray
    """[m]"""
    right: np.ndarray
    """bool [m]"""
    objects: int

    def at(self, threshold: float) -> tuple[float | None, float | None, float | None]:
        """Precision, recall and F1 of boxes with at least this score; None if undefined."""
        count = int((self.scores >= threshold).sum())
        hits = int(self.right[:count].sum())
        precision = hits / count if count else None
        recall = hits / self.objects if self.objects else None
        return precision, recall, 2 * hits / (count + self.objects) if count + self.objects else None


def pooled(matched: Sequence[Matched]) -> Pool:
    """All classes pooled."""
    scores = np.concatenate([m.scores for m in matched] or [np.empty(0)])
    right = np.concatenate([m.right for m in matched] or [np.empty(0, bool)])
    order = np.argsort(-scores, kind="stable")
    return Pool(scores[order], right[order], sum(len(m.truths) for m in matched))


def pooled_by_class(matched: Sequence[Matched], classes: int) -> list[Pool]:
    """One pool per class."""
    none = np.empty(0, np.int64)
    scores, labels, right, truths = (
        np.concatenate(columns or [none])
        for columns in (
            [m.scores for m in matched], [m.labels for m in matched], [m.right for m in matched],
            [m.truths for m in matched],
        )
    )  # fmt: skip
    order = np.lexsort((-scores, labels))
    ends = np.searchsorted(labels[order], np.arange(classes + 1))
    objects = np.bincount(truths.astype(np.int64), minlength=classes)
    rows = [order[ends[k] : ends[k + 1]] for k in range(classes)]
    return [Pool(scores[row], right[row], int(objects[k])) for k, row in enumerate(rows)]


def match_image(truth: Any, found: Any) -> Matched:
    """Match greedily at IoU 0.5, as COCO does: by falling score, each object once. Unmatched boxes on a crowd are left
    out: they count neither as right nor as wrong.

    truth: boxes, labels, crowd; found: boxes, scores, labels (see `vit.tasks.detection.metrics`).
    """
    order = np.argsort(-found.scores, kind="stable")
    boxes, scores, labels = found.boxes[order], found.scores[order], found.labels[order]
    matched, ignored = np.full(len(boxes), -1), np.zeros(len(boxes), bool)
    for k in np.unique(labels):
        mine, objects = np.flatnonzero(labels == k), np.flatnonzero((truth.labels == k) & ~truth.crowd)
        crowds = truth.boxes[(truth.labels == k) & truth.crowd]
        overlap = iou_matrix(boxes[mine], truth.boxes[objects])
        free = np.ones(len(objects), bool)
        for row, i in enumerate(mine):
            candidates = np.where(free, overlap[row], 0.0)
            if len(candidates) and candidates.max() >= IOU:
                free[candidates.argmax()] = False
                matched[i] = objects[candidates.argmax()]
        if len(crowds):
            ignored[mine] = (matched[mine] < 0) & (share_within(boxes[mine], crowds).max(axis=1) >= IOU)
    keep = ~ignored
    return Matched(order[keep], scores[keep], labels[keep], matched[keep], truth.labels[~truth.crowd])


def best_threshold(pool: Pool) -> tuple[float | None, float | None]:
    """The score with the highest F1 = 2 TP / (boxes + objects), and that F1; None without objects or right boxes."""
    scores, right, objects = pool
    if not objects or not right.any():
        return None, None
    f1 = 2 * right.cumsum() / (np.arange(1, len(right) + 1) + objects)
    # A threshold keeps all boxes of equal score: only the last of them is a candidate.
    last = np.r_[scores[1:] != scores[:-1], True]
    best = int(np.where(last, f1, -1.0).argmax())
    return float(scores[best]), float(f1[best])


def confusion(truths: Sequence[Any], found: Sequence[Any], classes: int, threshold: float) -> np.ndarray:
    """int64 [K + 1, K + 1] at a score threshold: row = true class, column = predicted class. Boxes match objects of any
    class; the last row counts boxes on background, the last column missed objects."""
    table = np.zeros((classes + 1, classes + 1), np.int64)
    for truth, boxes in zip(truths, found, strict=True):
        chosen = boxes.scores >= threshold
        kept, labels = boxes.boxes[chosen], boxes.labels[chosen]
        objects, true = truth.boxes[~truth.crowd], truth.labels[~truth.crowd]
        overlap = iou_matrix(kept, objects)
        free_box, free_object = np.ones(len(kept), bool), np.ones(len(objects), bool)
        rows, columns = np.nonzero(overlap >= IOU)
        # Pairs of the right class first: a wrong box must not displace a right one beside it.
        worth = overlap[rows, columns] + (labels[rows] == true[columns])
        order = np.argsort(-worth, kind="stable")
        for i, j in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if free_box[i] and free_object[j]:
                free_box[i] = free_object[j] = False
                table[true[j], labels[i]] += 1
        if truth.crowd.any() and len(kept):
            free_box &= share_within(kept, truth.boxes[truth.crowd]).max(axis=1) < IOU
        np.add.at(table, (np.full(free_box.sum(), classes), labels[free_box].astype(int)), 1)
        np.add.at(table, (true[free_object].astype(int), np.full(free_object.sum(), classes)), 1)
    return table


def iou_matrix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """xyxy [m, 4] and [n, 4] -> [m, n]."""
    overlap = _overlap(first, second)
    areas = _area(first)[:, None] + _area(second)
    return overlap / np.maximum(areas - overlap, 1e-12)


def share_within(boxes: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """The fraction of each box [m, 4] inside each crowd [n, 4] -> [m, n]: COCO's overlap for crowds."""
    return _overlap(boxes, crowds) / np.maximum(_area(boxes)[:, None], 1e-12)


def _overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.maximum(high - low, 0).prod(axis=2)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
