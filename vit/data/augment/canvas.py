"""A canvas of the model's input size, assembled with boxes from parts of one or more images.

Geometry is axis-aligned and in whole pixels: a part of an image (a Window) is scaled into a rectangle of the canvas.
The same numbers move its boxes, so that boxes and pixels always match.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vit.data.augment.crop import resized, window_for
from vit.data.sets.window import Choose, View, Window
from vit.images.preprocess import Preprocess

VISIBLE = 0.2
"""A box is dropped if a crop leaves less than this share of its area, which shows no object."""
Rectangle = tuple[int, int, int, int]
"""left, top, right, bottom in pixels of the canvas."""


class Source(NamedTuple):
    """An image with boxes, not decoded yet."""

    index: int
    """Its index in the data set."""
    boxes: np.ndarray
    """float32 [n, 4]: xyxy in pixels of the image."""
    crowd: np.ndarray
    """bool [n]"""
    view: Callable[[Choose], View]


class Fit(NamedTuple):
    """A part of an image, in pixels of the image, and the rectangle of the canvas that it fills."""

    window: Window
    target: Rectangle


class Canvas:
    """pixels: uint8 [H, W, 3], initially the mean color."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess
        self.fill = np.rint(np.array(preprocess.mean) * 255).astype(np.uint8)
        self.pixels = np.empty((*preprocess.size, 3), np.uint8)
        self.pixels[:] = self.fill
        self.painted = np.zeros(preprocess.size, bool)
        """bool [H, W]: pixels that show an image."""
        self.boxes = np.empty((0, 4), np.float32)
        """float32 [m, 4]: xyxy in pixels of the canvas, within it."""
        self.owners = np.empty(0, np.int64)
        self.rows = np.empty(0, np.int64)
        """owners, rows: int64 [m], the image index of each box and its row there."""
        self.hidden = np.empty(0)
        """float [m]: upper bound of the share of each box that was painted over later."""
        self.dropped = 0
        """Number of boxes dropped because too little was left of them."""
        self.first_size = (0, 0)
        """(H, W) of the first painted image."""

    def put(self, source: Source, plan: Callable[[tuple[int, int]], Fit], *, feather: int = 0) -> None:
        """Paint a part of an image; `plan` chooses it from the image's (H, W). feather: width in pixels of the edge
        that fades into the canvas. Raises UserError if the image cannot be decoded, and then changes nothing."""
        fits: list[Fit] = []

        def choose(size: tuple[int, int]) -> Window:
            fits.append(plan(size))
            return fits[-1].window

        view = source.view(choose)
        left, top, right, bottom = fits[-1].target
        part = resized(view.pixels, (bottom - top, right - left), self.preprocess.interpolation)
        below = self.pixels[top:bottom, left:right]
        below[:] = part if feather == 0 else _faded(part, below, feather)
        self.painted[top:bottom, left:right] = True
        if self.first_size == (0, 0):
            self.first_size = view.size
        self._add(source, moved(source.boxes, view.box, fits[-1].target), fits[-1].target)

    def covered(self, place: Rectangle) -> np.ndarray:
        """float [m]: the share of each box that would be hidden if `place` were painted."""
        low, high = np.maximum(self.boxes[:, :2], place[:2]), np.minimum(self.boxes[:, 2:], place[2:])
        areas = np.maximum((self.boxes[:, 2:] - self.boxes[:, :2]).prod(axis=1), 1e-6)
        return self.hidden + np.maximum(high - low, 0).prod(axis=1) / areas

    def mirror(self, flip: Callable[[np.ndarray], np.ndarray]) -> None:
        """Flip left to right; `flip` flips the pixels."""
        width = self.pixels.shape[1]
        self.pixels, self.painted = flip(self.pixels), self.painted[:, ::-1]
        left, right = width - self.boxes[:, 2], width - self.boxes[:, 0]
        self.boxes = np.stack([left, self.boxes[:, 1], right, self.boxes[:, 3]], axis=1)

    def join(self, other: Canvas) -> None:
        """Add the boxes of another canvas, whose pixels the caller has blended into this one."""
        self.boxes = np.concatenate([self.boxes, other.boxes])
        self.owners = np.concatenate([self.owners, other.owners])
        self.rows = np.concatenate([self.rows, other.rows])
        self.hidden = np.concatenate([self.hidden, other.hidden])
        self.painted |= other.painted
        self.dropped += other.dropped

    def recolor(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Apply `change` to the pixels; those that show no image keep the color they have in evaluation."""
        self.pixels = change(self.pixels)
        if not self.painted.all():
            self.pixels[~self.painted] = self.fill

    def _add(self, source: Source, boxes: np.ndarray, target: Rectangle) -> None:
        cut, rows, dropped = visible(boxes, target, source.crowd)
        self.boxes = np.concatenate([self.boxes, cut[rows]])
        self.owners = np.concatenate([self.owners, np.full(len(rows), source.index)])
        self.rows = np.concatenate([self.rows, rows])
        self.hidden = np.concatenate([self.hidden, np.zeros(len(rows))])
        self.dropped += dropped


def whole(size: tuple[int, int], preprocess: Preprocess) -> Fit:
    """A whole image of (H, W) pixels, placed as in evaluation."""
    return inside((0, 0, size[1], size[0]), preprocess)


def inside(part: tuple[float, float, float, float], preprocess: Preprocess) -> Fit:
    """A part of an image, xyxy, placed as evaluation places a whole image."""
    w, h = part[2] - part[0], part[3] - part[1]
    place = preprocess.placement((h, w))  # pyright: ignore[reportArgumentType]
    width, height = max(1, round(w * place.scale_x)), max(1, round(h * place.scale_y))
    target = (place.left, place.top, place.left + width, place.top + height)
    return Fit(window_for(part, (height, width)), target)


def scaled(
    size: tuple[int, int], cell: Rectangle, preprocess: Preprocess, scale: float, across: float, down: float
) -> Fit:
    """An image of (H, W) pixels in a cell of the canvas, at `scale` times its size in evaluation.

    The cell crops it; `across` and `down`, in 0..1, divide the free space, or the excess, between both sides.
    """
    h, w = size
    place = preprocess.placement(size)
    by_x, by_y = place.scale_x * scale, place.scale_y * scale
    left = cell[0] + (cell[2] - cell[0] - w * by_x) * across
    top = cell[1] + (cell[3] - cell[1] - h * by_y) * down
    x0, x1 = _span(left, left + w * by_x, cell[0], cell[2])
    y0, y1 = _span(top, top + h * by_y, cell[1], cell[3])
    part = (
        max(0.0, (x0 - left) / by_x), max(0.0, (y0 - top) / by_y),
        min(float(w), (x1 - left) / by_x), min(float(h), (y1 - top) / by_y),
    )  # fmt: skip
    return Fit(window_for(part, (y1 - y0, x1 - x0)), (x0, y0, x1, y1))


def moved(boxes: np.ndarray, part: tuple[float, float, float, float], target: Rectangle) -> np.ndarray:
    """xyxy boxes in pixels of an image -> in pixels of the canvas, where `part` of the image fills `target`."""
    scale = [(target[k + 2] - target[k]) / (part[k + 2] - part[k]) for k in (0, 1)] * 2
    return ((boxes - np.array(part[:2] * 2)) * scale + np.array(target[:2] * 2)).astype(np.float32)


def visible(boxes: np.ndarray, limits: Rectangle, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """xyxy boxes cut at the limits; the rows to keep; the number of boxes dropped with too little visible.

    A crowd is kept however little of it is visible: it marks an area that training ignores.
    """
    cut = np.clip(boxes, np.array(limits[:2] * 2), np.array(limits[2:] * 2)).astype(np.float32)
    before = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6).prod(axis=1)
    after = (cut[:, 2:] - cut[:, :2]).prod(axis=1)
    stays = (after > VISIBLE * before) | (crowd & (after > 0))
    return cut, np.flatnonzero(stays), int((~stays & (after > 0)).sum())


def _span(low: float, high: float, least: int, most: int) -> tuple[int, int]:
    """Whole pixels of low..high within least..most, at least one."""
    first = min(max(least, round(low)), most - 1)
    return first, min(max(first + 1, round(high)), most)


def _faded(part: np.ndarray, below: np.ndarray, feather: int) -> np.ndarray:
    """`part` over `below`, both uint8 [h, w, 3]: faint at the edge, opaque from `feather` pixels inward."""
    ramps = [np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)) / (feather + 1) for n in part.shape[:2]]
    share = np.minimum(1, np.minimum.outer(*ramps))[:, :, None]
    return np.rint(share * part + (1 - share) * below).astype(np.uint8)
