"""Detect whether boxes are x, y, width, height or two corners, for formats that do not say."""

from __future__ import annotations

import numpy as np

from vit.data.check.findings import Findings

SHARE = 0.01
"""Largest fraction of boxes that may be invalid under the correct interpretation."""
SLACK = 1.0


def ordered(boxes: np.ndarray, extent: np.ndarray, where: str, findings: Findings) -> np.ndarray:
    """Convert boxes as stored in the file, float64 [n, 4], to xyxy.

    Hugging Face documents x, y, width, height, but some data sets store corners. Corners are assumed, and reported, if
    more than SHARE of the boxes are invalid as x, y, width, height and at most SHARE as corners.
    extent: (W, H, W, H) of each box's image, 0 if unknown.
    """
    corners = boxes.copy()
    corners[:, 2:] += corners[:, :2]
    known = np.isfinite(boxes).all(axis=1) & (extent > 0).all(axis=1)
    if not known.any():
        return corners
    wrong = [_outside(option[known], extent[known]).mean() for option in (corners, boxes)]
    if wrong[0] > SHARE >= wrong[1]:
        findings.add("box-corners", where, "all", len(boxes))
        return boxes
    return corners


def _outside(boxes: np.ndarray, extent: np.ndarray) -> np.ndarray:
    beyond = (boxes[:, :2] < -SLACK) | (boxes[:, 2:] > extent[:, 2:] + SLACK)
    return np.asarray((beyond | (boxes[:, 2:] <= boxes[:, :2])).any(axis=1))
