"""Data whose truth can be read off the pixels: each image holds rectangles, and a rectangle's color is its class."""

from __future__ import annotations

import numpy as np

from vit.data.augment.boxes import Augmented
from vit.data.sets.boxset import Annotation
from vit.data.sets.imageset import ImageSet
from vit.errors import UserError

CHANNELS = 3
"""Classes: red, green, blue."""
EDGE = 2
"""Pixels at the edges of a box that may show either side of it."""


class Colored(ImageSet):
    """n black images; image i has boxes[i], float32 [m, 4], of class (i + row) % 3, none covering another."""

    def __init__(self, sizes, boxes, *, crowd=None, broken=()) -> None:
        super().__init__(["red", "green", "blue"], np.array([len(own) for own in boxes], np.int64))
        self.sizes, self.boxes, self.broken = sizes, [np.asarray(b, np.float32).reshape(-1, 4) for b in boxes], broken
        self.crowd = crowd or [np.zeros(len(own), bool) for own in self.boxes]

    def name(self, i: int) -> str:
        return f"colored/{i}"

    def image_id(self, i: int) -> int:
        return 100 + i

    def read(self, i: int) -> np.ndarray:
        if i in self.broken:
            raise UserError(f"colored/{i}: cannot be decoded")
        image = np.zeros((*self.sizes[i], 3), np.uint8)
        truth = self.annotation(i)
        for (left, top, right, bottom), label in zip(truth.boxes.astype(int).tolist(), truth.labels, strict=True):
            image[top:bottom, left:right, label] = 255
        return image

    def annotation(self, i: int) -> Annotation:
        boxes = self.boxes[i]
        labels = (i + np.arange(len(boxes))) % CHANNELS
        return Annotation(boxes, labels, self.crowd[i], (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))

    def select(self, indices: np.ndarray) -> Colored:
        raise NotImplementedError


def drawn_at_random(seed: int, n: int = 5, most: int = 4, empty: float = 0.2) -> Colored:
    """Images of different sizes with up to `most` boxes of 6 pixels and more, apart from each other by 2 at least."""
    rng = np.random.default_rng(seed)
    sizes, boxes = [], []
    for _ in range(n):
        height, width = rng.integers(24, 120, 2).tolist()
        taken, own = np.zeros((height, width), bool), []
        for _ in range(0 if rng.random() < empty else int(rng.integers(1, most + 1))):
            w, h = int(rng.integers(6, max(7, width // 2))), int(rng.integers(6, max(7, height // 2)))
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            around = slice(max(0, top - 2), top + h + 2), slice(max(0, left - 2), left + w + 2)
            if not taken[around].any():
                taken[around] = True
                own.append((left, top, left + w, top + h))
        sizes.append((height, width))
        boxes.append(own)
    return Colored(sizes, boxes)


def assert_shown(images: Colored, done: Augmented, least: float) -> None:
    """Every box of an augmented sample shows its color in `least` of its pixels, and no color lies outside of a box."""
    # What shines through another image in mixup has 40 % of its brightness at least.
    shown = done.pixels >= 80
    rows = zip(done.owners.tolist(), done.rows.tolist(), strict=True)
    labels = np.array([images.annotation(owner).labels[row] for owner, row in rows], np.int64)
    for box, label in zip(done.boxes, labels, strict=True):
        pixels = shown[(*inner(box, EDGE), label)]
        if pixels.size >= 16:
            assert pixels.mean() >= least, f"{box} shows another color"
    if done.dropped == 0:
        for channel in range(CHANNELS):
            outside = shown[:, :, channel].copy()
            for box in done.boxes[labels == channel]:
                outside[inner(box, -EDGE)] = False
            assert not outside.any(), "an object without a box"


def inner(box: np.ndarray, by: float) -> tuple[slice, slice]:
    """The pixels of a box, without `by` at each edge (below 0: with as many more)."""
    left, top, right, bottom = box.tolist()
    return (
        slice(max(0, int(np.ceil(top + by))), max(0, int(np.floor(bottom - by)))),
        slice(max(0, int(np.ceil(left + by))), max(0, int(np.floor(right - by)))),
    )
