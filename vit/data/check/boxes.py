"""Checks for suspicious boxes that do not stop training."""

from __future__ import annotations

import numpy as np

from vit.data.check.findings import Findings
from vit.data.sets.boxset import Boxed

TINY = 3 / 640
"""Shorter side of a box over the longer side of its image: 3 pixels if the image is resized to 640."""
WHOLE = 0.99
"""Share of both sides of the image."""
CROWDED = 100
"""COCO's AP counts at most this many boxes per image."""
BARE = 0.5


def check_boxes(images: Boxed, split: str, findings: Findings) -> None:
    """Add the findings of one split."""
    boxes, labels, crowd, _ = images.rows
    n, owners = len(labels), np.repeat(np.arange(len(images)), np.diff(images.ends, prepend=0))
    if not n:
        findings.add("split-without-boxes", split, f"{len(images):,} images")
        return
    bare = np.flatnonzero(np.diff(images.ends, prepend=0) == 0)
    if len(bare) > BARE * len(images):
        findings.add("image-bare", split, [images.name(i) for i in bare[:10].tolist()], len(bare), of=len(images))
    sides, extent = boxes[:, 2:] - boxes[:, :2], images.sizes[owners][:, ::-1]

    def flag(id: str, wrong: np.ndarray, rows: int = n) -> None:
        k = np.flatnonzero(wrong)
        findings.add(id, split, [_place(images, owners, row) for row in k[:10].tolist()], len(k), of=rows)

    flag("box-tiny", sides.min(axis=1) < TINY * extent.max(axis=1))
    flag("box-whole", (sides >= WHOLE * extent).all(axis=1) & ~crowd)
    # Sorted so that boxes with the same corners, to a hundredth of a pixel, are adjacent.
    corners = np.round(boxes * 100).astype(np.int64)
    order = np.lexsort((labels, *corners.T, owners))
    same = (corners[order][1:] == corners[order][:-1]).all(axis=1) & (owners[order][1:] == owners[order][:-1])
    alike = labels[order][1:] == labels[order][:-1]
    for id, wrong in (("box-twice", same & alike), ("box-two-classes", same & ~alike)):
        marked = np.zeros(n, bool)
        marked[order[1:][wrong]] = True
        flag(id, marked)
    many = np.flatnonzero(images.objects() > CROWDED)
    names = [f"{images.name(i)} ({images.objects()[i]})" for i in many[:10].tolist()]
    findings.add("image-crowded", split, names, len(many), of=len(images))


def _place(images: Boxed, owners: np.ndarray, row: int) -> str:
    x, y, right, bottom = images.rows.boxes[row].tolist()
    name = images.classes[images.rows.labels[row]]
    return f"{images.name(int(owners[row]))}: {name} at {x:g},{y:g},{right:g},{bottom:g}"
