"""Merge the boxes of several passes over one image.

Letters: n boxes of all passes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vit.detector.postprocess import Found


def pooled(found: Sequence[Found], limit: int | None = None) -> tuple[Found, np.ndarray]:
    """The `limit` best of all boxes, best first and on the CPU, and the pass of each, int64 [n]."""
    boxes, scores, labels = (torch.cat(parts).cpu() for parts in zip(*(f[:3] for f in found), strict=True))
    owner = torch.cat([torch.full((len(f.scores),), i) for i, f in enumerate(found)])
    order = scores.argsort(descending=True, stable=True)[:limit]
    pool = Found(boxes, scores, labels, sum(f.dropped for f in found))
    return pool.take(order), owner[order].numpy()


def partners(agreement: np.ndarray, scores: np.ndarray, owner: np.ndarray, free: np.ndarray, least: float) -> list[int]:
    """The boxes of other passes that show the same object as a box, given their agreement [n] with it.

    At most one per pass, since no pass finds an object twice: among `free` boxes with an agreement of at least `least`,
    the one with the highest product of agreement and score. By agreement alone, a low-score box that happens to fit
    better would leave the pass's best box as a duplicate.
    """
    rows = np.flatnonzero((agreement >= least) & free)
    rows = rows[np.argsort(-agreement[rows] * scores[rows], kind="stable")]
    return rows[np.unique(owner[rows], return_index=True)[1]].tolist()
