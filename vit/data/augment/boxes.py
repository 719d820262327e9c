"""Augmentation of an image with boxes: a pure function of (image, boxes, seed), or of (data set, index, seed) if other
images are mixed in (`vit.data.augment.mosaic`).

The geometry is that of `vit.data.augment.canvas`: flips, scales and crops are four numbers, which move boxes and pixels
alike; boxes keep their row numbers. The colors are those of `vit.data.augment.images`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import numpy as np

from vit.data.augment import mosaic as box_mixing
from vit.data.augment.canvas import Canvas, Fit, Source, inside, scaled, visible, whole
from vit.data.augment.crop import TRIES
from vit.data.augment.images import color_factors, pixel_operations
from vit.data.load.sampling import derive_seed
from vit.data.sets.boxset import BoxSet
from vit.data.sets.window import all_of, whole_cut
from vit.errors import UserError, nearest
from vit.images.preprocess import Preprocess


@dataclasses.dataclass(frozen=True)
class BoxAugment:
    """Strength of the augmentation of a training image with boxes.

    flip: probability of a left-right flip.
    brightness, contrast, saturation, hue: as in `Augment`.
    jitter: range of the scale, relative to fitting the whole image; None keeps the fit of evaluation. Above 1 a random
        part is cropped, below 1 the image is placed at random on the mean color (large-scale jitter, Ghiasi et al.
        2021, section 3).
    crop: probability of a random crop that cuts no object, instead of jitter.
    mosaic: probability of four images around a random point (YOLOv4, arXiv:2004.10934; YOLOX, arXiv:2107.08430).
    mixup: probability of blending in another image (YOLOX).
    paste: probability of pasting objects of another image, as boxes with soft edges.
    """

    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter: tuple[float, float] | None = None
    crop: float = 0.0
    mosaic: float = 0.0
    mixup: float = 0.0
    paste: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "crop", "mosaic", "mixup", "paste"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"augment.{name} is a probability in 0..1, not {getattr(self, name)}.")
        if self.jitter is not None and not 0 < self.jitter[0] <= self.jitter[1]:
            raise UserError(f"augment.jitter is a range of scales above 0, not {self.jitter}.")

    @property
    def mixes(self) -> bool:
        """Whether a sample may combine several images."""
        return bool(self.mosaic or self.mixup or self.paste)

    def unmixed(self) -> BoxAugment:
        return dataclasses.replace(self, mosaic=0.0, mixup=0.0, paste=0.0)


_LIGHT = BoxAugment(flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02)
BOX_AUGMENTS = {
    "none": BoxAugment(),
    "light": _LIGHT,
    "lsj": dataclasses.replace(_LIGHT, jitter=(0.3, 2.0)),
    # Color ranges of SSD (arXiv:1512.02325), which RT-DETR's descendants use.
    "strong": BoxAugment(
        flip=0.5, brightness=0.125, contrast=0.5, saturation=0.5, hue=0.05, jitter=(0.5, 1.5), crop=0.5, mosaic=0.5,
        mixup=0.15, paste=0.3,
    ),
}  # fmt: skip


def named_box_augment(name: str) -> BoxAugment:
    """The entry of BOX_AUGMENTS. Raises UserError with the nearest name."""
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
    """int64 [m]: row of each box among the input boxes."""
    owners: np.ndarray
    """int64 [m]: index of the image that each box comes from."""
    original_size: tuple[int, int]
    """(H, W) of the requested image."""
    dropped: int = 0
    """Number of boxes cut to less than `canvas.VISIBLE` of their area, but not to nothing."""
    bad: tuple[tuple[int, str], ...] = ()
    """Images to mix in that could not be decoded: (index, reason)."""


class BoxPipeline:
    """(image uint8 [H, W, 3], boxes xyxy float32 [n, 4] in its pixels, seed) -> Augmented. `crowd` bool [n]: boxes of
    crowds. A call mixes nothing in, since that takes a data set: see `read`."""

    def __init__(self, augment: BoxAugment, preprocess: Preprocess) -> None:
        self.augment, self.preprocess = augment, preprocess
        self._operations = None if augment == BoxAugment() else pixel_operations()
        self._others: dict[tuple[tuple[int, int], bool], BoxPipeline] = {}

    def __reduce__(self) -> tuple[type[BoxPipeline], tuple[BoxAugment, Preprocess]]:
        return BoxPipeline, (self.augment, self.preprocess)

    def at(self, size: tuple[int, int], mixes: bool = True) -> BoxPipeline:
        """The same pipeline for another input size (H, W), or without mixing."""
        mixes = mixes or not self.augment.mixes
        if size == self.preprocess.size and mixes:
            return self
        if (size, mixes) not in self._others:
            augment = self.augment if mixes else self.augment.unmixed()
            self._others[size, mixes] = BoxPipeline(augment, dataclasses.replace(self.preprocess, size=size))
        return self._others[size, mixes]

    def __call__(self, image: np.ndarray, boxes: np.ndarray, seed: int, crowd: np.ndarray | None = None) -> Augmented:
        crowd = np.zeros(len(boxes), bool) if crowd is None else crowd
        source = Source(0, boxes, crowd, partial(whole_cut, image))
        return self.at(self.preprocess.size, mixes=False)._made(source, None, seed)

    def read(self, images: BoxSet, i: int, seed: int) -> Augmented:
        """Decode and augment image i of a set, with others of the set mixed in; the seed decides which.

        Raises UserError if image i cannot be decoded; any other that cannot is replaced by the next in the set.
        """
        truth = images.annotation(i)
        source = Source(i, truth.boxes, truth.crowd, partial(images.view, i))
        return self._made(source, box_mixing.Partners(images, seed) if self.augment.mixes else None, seed)

    def _made(self, source: Source, partners: box_mixing.Partners | None, seed: int) -> Augmented:
        if self._operations is None:
            return self._plain(source)
        a, rng = self.augment, np.random.Generator(np.random.PCG64(seed))
        # All numbers are drawn, used or not, so that switching one change off leaves the others the same.
        flip, mosaic, mixup, paste, *colors = rng.random(8).tolist()
        if partners is not None and mosaic < a.mosaic:
            canvas = box_mixing.mosaic(source, partners, self.preprocess, rng.random((5, 4)))
        else:
            canvas = self._alone(source, rng.random((2, 4)), derive_seed(seed & (2**63 - 1), 1))
        if partners is not None and paste < a.paste:
            box_mixing.paste(canvas, partners, rng.random((box_mixing.PASTED, box_mixing.PLACES, 4)))
        if partners is not None and mixup < a.mixup:
            self._mixup(canvas, partners, rng.random(4).tolist())
        if flip < a.flip:
            canvas.mirror(self._operations.mirrored)
        factors, recolored = color_factors(a, colors), self._operations.recolored
        canvas.recolor(lambda pixels: recolored(pixels, *factors))
        bad = tuple(partners.bad) if partners is not None else ()
        return Augmented(
            canvas.pixels, canvas.boxes, canvas.rows, canvas.owners, canvas.first_size, canvas.dropped, bad
        )

    def _mixup(self, canvas: Canvas, partners: box_mixing.Partners, numbers: list[float]) -> None:
        assert self._operations is not None
        other = Canvas(self.preprocess)
        if partners.use(lambda source: other.put(source, partial(self._jittered, numbers=numbers[1:]))):
            low, high = box_mixing.SHARE
            canvas.pixels = self._operations.blended(canvas.pixels, other.pixels, low + (high - low) * numbers[0])
            canvas.join(other)

    def _plain(self, source: Source) -> Augmented:
        """Exactly as in evaluation, to the last bit."""
        view = source.view(all_of)
        boxes = placed(source.boxes, self.preprocess, view.size)
        height, width = self.preprocess.size
        boxes, rows, dropped = visible(boxes, (0, 0, width, height), source.crowd)
        pixels = self.preprocess.pixels(view.pixels)
        return Augmented(pixels, boxes[rows], rows, np.full(len(rows), source.index), view.size, dropped)

    def _alone(self, source: Source, numbers: np.ndarray, seed: int) -> Canvas:
        """A single image: whole, jittered or cropped."""
        canvas, (choice, *place) = Canvas(self.preprocess), numbers.ravel().tolist()
        if choice < self.augment.crop:
            tries = np.random.Generator(np.random.PCG64(seed)).random((TRIES, 4))

            def plan(size: tuple[int, int]) -> Fit:
                part = box_mixing.safe_crop(size, source.boxes[~source.crowd], tries, place[0])
                return inside(part, self.preprocess)

            canvas.put(source, plan)
        else:
            canvas.put(source, partial(self._jittered, numbers=place))
        return canvas

    def _jittered(self, size: tuple[int, int], numbers: list[float]) -> Fit:
        if self.augment.jitter is None:
            return whole(size, self.preprocess)
        low, high = self.augment.jitter
        height, width = self.preprocess.size
        scale = low * (high / low) ** numbers[0]  # as many halvings as doublings
        return scaled(size, (0, 0, width, height), self.preprocess, scale, numbers[1], numbers[2])


def placed(boxes: np.ndarray, preprocess: Preprocess, size: tuple[int, ...]) -> np.ndarray:
    """xyxy boxes in pixels of an image of (H, W) -> in pixels of the model's input, as in evaluation."""
    place = preprocess.placement((size[0], size[1]))
    factor = np.array([place.scale_x, place.scale_y] * 2, np.float32)
    return (boxes * factor + np.array([place.left, place.top] * 2, np.float32)).astype(np.float32)
