"""Which four numbers a box is, where the format leaves it open: x, y, width, height, or the two corners."""

from __future__ import annotations

import numpy as np

from vit.data.check.findings import Findings

SHARE = 0.01
"""Up to this share of boxes may be wrong under the right reading."""
SLACK = 1.0


def ordered(boxes: np.ndarray, extent: np.ndarray, where: str, findings: Findings) -> np.ndarray:
    """Boxes as they are in the file, float64 [n, 4], -> xyxy.

    x, y, width, height is what Hugging Face's own documents say; sets with corners exist all the same. These are taken
    where the first reading puts more than SHARE of the boxes outside their images and the second does not, and it is
    told. extent: (W, H, W, H) of each box's image, 0 where unknown.
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
