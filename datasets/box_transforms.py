"""Augmentation of an image and its boxes, a pure function of (image, boxes, seed).

The geometry is ours: flips, scales and crops are four numbers, so boxes move by the same numbers as the pixels and
keep their row numbers. The colors are those of `datasets.transforms`.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from PIL import Image

from datasets.sampling import derive_seed
from datasets.transforms import Augment, Pipeline
from vit.errors import UserError, nearest
from vit.image import INTERPOLATIONS, Preprocess


@dataclasses.dataclass(frozen=True)
class BoxAugment:
    """How far a training image with boxes may be changed.

    flip: probability of a left-right flip.
    brightness, contrast, saturation, hue: as in `Augment`.
    jitter: range of the scale, relative to fitting the whole image in; None keeps the evaluation's fit. Above 1 a
        random part is cut out, below 1 the image lies at a random place on the mean color (large-scale jitter, Ghiasi
        et al. 2021, section 3).
    """

    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise UserError(f"augment.flip is a probability in 0..1, not {self.flip}.")
        if self.jitter is not None and not 0 < self.jitter[0] <= self.jitter[1]:
            raise UserError(f"augment.jitter is a range of scales above 0, not {self.jitter}.")

    @property
    def colors(self) -> Augment:
        return Augment(brightness=self.brightness, contrast=self.contrast, saturation=self.saturation, hue=self.hue)


BOX_AUGMENTS = {
    "none": BoxAugment(),
    "light": BoxAugment(flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02),
    "lsj": BoxAugment(flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02, jitter=(0.3, 2.0)),
}
VISIBLE = 0.2
"""A box of which less than this share is left by a crop is dropped: what is left shows no object."""


def named_box_augment(name: str) -> BoxAugment:
    """The entry of BOX_AUGMENTS; UserError with the nearest name."""
    if name not in BOX_AUGMENTS:
        raise UserError(
            f'No augmentation of boxes "{name}"; there are {", ".join(BOX_AUGMENTS)}.{nearest(name, BOX_AUGMENTS)}'
        )
    return BOX_AUGMENTS[name]


class Augmented(NamedTuple):
    pixels: np.ndarray
    """uint8 [h, w, 3] of the model's input size."""
    boxes: np.ndarray
    """float32 [m, 4]: xyxy in pixels of the input, within it."""
    rows: np.ndarray
    """int64 [m]: which of the boxes handed in each one is."""


class BoxPipeline:
    """(image uint8 [H, W, 3], boxes xyxy float32 [n, 4] in its pixels, seed) -> Augmented."""

    def __init__(self, augment: BoxAugment, preprocess: Preprocess) -> None:
        self.augment, self.preprocess = augment, preprocess
        self._colors = Pipeline(augment.colors, preprocess)
        self._others: dict[tuple[int, int], BoxPipeline] = {}

    def at(self, size: tuple[int, int]) -> BoxPipeline:
        """The same for another input size (H, W)."""
        if size == self.preprocess.size:
            return self
        if size not in self._others:
            self._others[size] = BoxPipeline(self.augment, dataclasses.replace(self.preprocess, size=size))
        return self._others[size]

    def __call__(self, image: np.ndarray, boxes: np.ndarray, seed: int) -> Augmented:
        rng = np.random.Generator(np.random.PCG64(seed))
        # All numbers are drawn whether used or not: switching one change off leaves the others as they were.
        flip, zoom, across, down = rng.random(4).tolist()
        pixels, moved = self._fitted(image, boxes) if self.augment.jitter is None else self._jittered(
            image, boxes, zoom, across, down
        )  # fmt: skip
        if flip < self.augment.flip:
            width = self.preprocess.size[1]
            pixels = np.ascontiguousarray(pixels[:, ::-1])
            moved = np.stack([width - moved[:, 2], moved[:, 1], width - moved[:, 0], moved[:, 3]], axis=1)
        pixels = self._colors(pixels, derive_seed(seed & (2**63 - 1), 1))
        return Augmented(pixels, *self._within(moved))

    def _fitted(self, image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.preprocess.pixels(image), placed(boxes, self.preprocess, image.shape[:2])

    def _jittered(
        self, image: np.ndarray, boxes: np.ndarray, zoom: float, across: float, down: float
    ) -> tuple[np.ndarray, np.ndarray]:
        assert self.augment.jitter is not None
        low, high = self.augment.jitter
        height, width = self.preprocess.size
        h, w = image.shape[:2]
        place = self.preprocess.placement((h, w))
        scale = low * (high / low) ** zoom  # as many halvings as doublings
        scale_x, scale_y = place.scale_x * scale, place.scale_y * scale
        # The free space (negative: what sticks out) is shared at random between both sides.
        left, top = round((width - w * scale_x) * across), round((height - h * scale_y) * down)
        canvas = np.empty((height, width, 3), np.uint8)
        canvas[:] = np.rint(np.array(self.preprocess.mean) * 255)
        x0, y0 = max(0, left), max(0, top)
        x1, y1 = min(width, round(left + w * scale_x)), min(height, round(top + h * scale_y))
        if x1 > x0 and y1 > y0:
            # Only the part that stays is scaled: `box` is it, in pixels of the image.
            part = ((x0 - left) / scale_x, (y0 - top) / scale_y, (x1 - left) / scale_x, (y1 - top) / scale_y)
            part = (max(0.0, part[0]), max(0.0, part[1]), min(float(w), part[2]), min(float(h), part[3]))
            resample = INTERPOLATIONS[self.preprocess.interpolation]
            scaled = Image.fromarray(image).resize((x1 - x0, y1 - y0), resample, box=part)
            canvas[y0:y1, x0:x1] = np.asarray(scaled)
        factor = np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
        return canvas, boxes * factor + np.array([left, top, left, top], np.float32)

    def _within(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes cut at the border of the input, without those that lost too much, and the rows that stay."""
        height, width = self.preprocess.size
        limit = np.array([width, height, width, height], np.float32)
        cut = np.clip(boxes, 0, limit).astype(np.float32)
        before = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6).prod(axis=1)
        after = (cut[:, 2:] - cut[:, :2]).prod(axis=1)
        rows = np.flatnonzero(after > VISIBLE * before)
        return cut[rows], rows


def placed(boxes: np.ndarray, preprocess: Preprocess, size: tuple[int, ...]) -> np.ndarray:
    """xyxy boxes in pixels of an image of (H, W) -> in pixels of the model's input, in evaluation."""
    place = preprocess.placement((size[0], size[1]))
    factor = np.array([place.scale_x, place.scale_y] * 2, np.float32)
    return (boxes * factor + np.array([place.left, place.top] * 2, np.float32)).astype(np.float32)
