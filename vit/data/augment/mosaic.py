"""Several images in one: mosaic, mixup, pasted objects; and the crop that cuts no object.

The sample's seed decides which other images take part and how they are changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from vit.data.augment.canvas import Canvas, Fit, Rectangle, Source, scaled
from vit.data.augment.crop import random_crop, window_for
from vit.data.load.sampling import derive_seed
from vit.data.sets.boxset import BoxSet
from vit.data.sets.window import cut
from vit.errors import UserError
from vit.images.preprocess import Preprocess

CENTER = (0.3, 0.7)
"""Range of the point where the images of a mosaic meet, as a share of each side."""
TILE = (0.4, 1.0)
"""Scale of the images of a mosaic, relative to fitting the input: at 0.5 an image fills a quarter of it."""
SHARE = (0.4, 0.6)
"""Weight of the first image in mixup."""
PASTED, PLACES = 3, 8
"""Maximum number of pasted objects; places to try for each."""
PASTE_SCALE = (0.5, 1.5)
"""Size of a pasted object, relative to its size in evaluation."""
SMALLEST = 4
"""Minimum side of a pasted object, in pixels of the input."""
FEATHER = 8
"""The edge of a pasted object fades over 1 / FEATHER of its shorter side."""
COVERED = 0.3
"""Maximum share of another object that pasted objects may cover together."""
CROP_AREA, CROP_RATIO = (0.3, 1.0), (0.5, 2.0)
"""Ranges for the crop that cuts no object, before it grows around the objects it would cut."""
_ATTEMPTS = 10
_STREAM = 0x9A27  # separates the choice of partners from how they are changed


class Partners:
    """The other images of a sample: the k-th request is a function of (seed, k). `bad` lists (index, reason) of images
    that could not be decoded, each replaced by the next in the set."""

    def __init__(self, images: BoxSet, seed: int) -> None:
        self.images, self.seed = images, seed & (2**63 - 1)
        self.bad: list[tuple[int, str]] = []
        self._asked = 0

    def use(self, paint: Callable[[Source], None], wanted: Callable[[Source], bool] | None = None) -> bool:
        """Call `paint` with the next image, or the first after it that is `wanted`; returns whether there was one."""
        self._asked += 1
        first = derive_seed(self.seed, self._asked, _STREAM) % len(self.images)
        for step in range(min(_ATTEMPTS, len(self.images))):
            i = (first + step) % len(self.images)
            truth = self.images.annotation(i)
            source = Source(i, truth.boxes, truth.crowd, partial(self.images.view, i))
            if wanted is not None and not wanted(source):
                continue
            try:
                paint(source)
                return True
            except UserError as error:
                self.bad.append((i, str(error)))
        return False


def mosaic(source: Source, partners: Partners, preprocess: Preprocess, numbers: np.ndarray) -> Canvas:
    """The image and three others, one in each quadrant around a random point. numbers: float [5, 4] in 0..1.

    As in YOLOX, but drawn directly at the input's size, not at twice its size and cropped. Raises UserError if the
    image itself cannot be decoded; a quadrant without a partner stays empty.
    """
    canvas, (height, width) = Canvas(preprocess), preprocess.size
    low, high = CENTER
    across, down, first = (numbers[0, :3] * [high - low, high - low, 4] + [low, low, 0]).tolist()
    x, y = _within(width * across, width), _within(height * down, height)
    cells = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    for k in range(4):
        zoom, left, top, _ = numbers[k + 1].tolist()
        cell, scale = cells[(int(first) + k) % 4], TILE[0] * (TILE[1] / TILE[0]) ** zoom

        def paint(
            image: Source, cell: Rectangle = cell, scale: float = scale, left: float = left, top: float = top
        ) -> None:
            canvas.put(image, lambda size: scaled(size, cell, preprocess, scale, left, top))

        if k == 0:
            paint(source)
        else:
            partners.use(paint)
    return canvas


def paste(canvas: Canvas, partners: Partners, numbers: np.ndarray) -> None:
    """Paste up to PASTED objects of another image with soft edges (Dwibedi et al. 2017, arXiv:1708.01642), each where
    it covers little. Other objects within its box are pasted with it and keep their labels. numbers: float
    [PASTED, PLACES, 4] in 0..1."""
    height, width = canvas.preprocess.size
    dropped = canvas.dropped

    def paint(source: Source) -> None:
        largest = (round(height * PASTE_SCALE[1]), round(width * PASTE_SCALE[1]))
        # Decoded once for all its objects.
        view = source.view(lambda size: window_for((0, 0, size[1], size[0]), largest))
        by = view.box[2] / view.pixels.shape[1], view.box[3] / view.pixels.shape[0]
        at_hand = source._replace(view=lambda choose: cut(view.pixels, choose(view.size), view.size, by))
        place = canvas.preprocess.placement(view.size)
        single = source.boxes[~source.crowd]
        for which, tries in zip(_distinct(numbers[:, 0, 2], len(single)), numbers, strict=False):
            scale = PASTE_SCALE[0] * (PASTE_SCALE[1] / PASTE_SCALE[0]) ** float(tries[0, 3])
            left, top, right, bottom = single[which].tolist()
            w, h = round((right - left) * place.scale_x * scale), round((bottom - top) * place.scale_y * scale)
            if not (SMALLEST <= w < width and SMALLEST <= h < height):
                continue
            target = _free(canvas, (w, h), tries)
            if target is not None:
                canvas.hidden = canvas.covered(target)
                fit = Fit(window_for((left, top, right, bottom), (h, w)), target)
                canvas.put(at_hand, lambda size, fit=fit: fit, feather=max(1, min(w, h) // FEATHER))

    partners.use(paint, lambda source: not source.crowd.all())
    # Neighbors of which too little was pasted do not count as dropped.
    canvas.dropped = dropped


def safe_crop(
    size: tuple[int, int], boxes: np.ndarray, tries: np.ndarray, which: float
) -> tuple[float, float, float, float]:
    """A random crop of an image of (H, W) pixels that cuts no object: it grows around the objects it would cut, and
    always around one (`which`, in 0..1). boxes: xyxy [n, 4]; tries: as for `random_crop`."""
    left, top, right, bottom = map(float, random_crop(size, CROP_AREA, CROP_RATIO, tries))
    if len(boxes):
        taken = np.zeros(len(boxes), bool)
        taken[int(which * len(boxes))] = True
        while taken.any():
            left, top = min(left, *boxes[taken, 0].tolist()), min(top, *boxes[taken, 1].tolist())
            right, bottom = max(right, *boxes[taken, 2].tolist()), max(bottom, *boxes[taken, 3].tolist())
            meets = (boxes[:, 0] < right) & (boxes[:, 2] > left) & (boxes[:, 1] < bottom) & (boxes[:, 3] > top)
            within = (boxes[:, :2] >= [left, top]).all(axis=1) & (boxes[:, 2:] <= [right, bottom]).all(axis=1)
            taken = meets & ~within
    height, width = size
    return (
        max(0, math.floor(left)),
        max(0, math.floor(top)),
        min(width, math.ceil(right)),
        min(height, math.ceil(bottom)),
    )


def _within(value: float, side: int) -> int:
    """Round, leaving at least one pixel on either side."""
    return min(max(1, round(value)), max(1, side - 1))


def _distinct(numbers: np.ndarray, n: int) -> list[int]:
    """Distinct positions in 0..n-1 from numbers in 0..1: at least one, at most one per number."""
    return list(dict.fromkeys((numbers * n).astype(int).tolist()))[: max(1, n)]


def _free(canvas: Canvas, size: tuple[int, int], tries: np.ndarray) -> Rectangle | None:
    """The first random place for a rectangle of (w, h) that leaves enough of every box; None if none does."""
    height, width = canvas.preprocess.size
    for across, down in tries[:, :2].tolist():
        left, top = int(across * (width - size[0] + 1)), int(down * (height - size[1] + 1))
        place = (left, top, left + size[0], top + size[1])
        if canvas.covered(place).max(initial=0) <= COVERED:
            return place
    return None
