"""Data whose truth can be read off the pixels: each image holds rectangles, and a rectangle's color is its class."""

from __future__ import annotations

import numpy as np

from datasets.boxset import Annotation
from datasets.imageset import ImageSet
from vit.errors import UserError

CHANNELS = 3
"""Classes: red, green, blue."""


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
