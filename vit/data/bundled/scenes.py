"""The bundled detection data: scenes of handwritten digits, composed on demand.

Scene i of a split is a pure function of (split, i). Digits come only from the same split of the bundled digits, so
test scenes contain no training digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from vit.data.bundled.digits import load_digits
from vit.data.load.sampling import derive_seed
from vit.data.sets.boxset import Annotation, label_table
from vit.data.sets.imageset import ImageSet

SIDE = 128
COUNTS = {"train": 8000, "val": 200, "test": 500}
SMALLEST, LARGEST = 14, 64
MOST = 6
EMPTY = 0.08
"""Fraction of scenes without a digit."""
COVERED = 0.25
"""Largest total fraction of a digit's box that later boxes may cover."""
CONTRAST, CLUTTER = 90, 60
"""Gray values: minimum luminance difference of a digit, and maximum color difference of a line, from the background."""
INK = 40
"""Minimum gray value of a digit's pixels."""
LOOKED_AT = 500
"""Scenes sampled to count the digits of each class."""
_STREAM = {"train": 1, "val": 2, "test": 3}


class Scenes(ImageSet):
    """128 x 128 pixels with 0 to 6 digits of 14 to 64 pixels on textured, noisy, cluttered backgrounds."""

    def __init__(self, split: str, indices: np.ndarray) -> None:
        digits = load_digits()[split]
        super().__init__(digits.classes, np.zeros(len(indices), np.int64))
        self.split, self.indices = split, indices
        self._glyphs, self._labels = _glyphs(split), digits.targets
        self._table: np.ndarray | None = None

    def name(self, i: int) -> str:
        return f"scenes/{self.split}/{self.indices[i]}"

    def image_id(self, i: int) -> int:
        return int(self.indices[i])

    def read(self, i: int) -> np.ndarray:
        return self._compose(i)[0]

    def annotation(self, i: int) -> Annotation:
        boxes, labels = self._layout(i)[1:]
        if self._table is not None:
            labels = self._table[labels]
        size = boxes[:, 2:] - boxes[:, :2]
        return Annotation(boxes, labels, np.zeros(len(labels), bool), size.prod(axis=1))

    def counts(self) -> np.ndarray:
        """Digits per class in the first LOOKED_AT scenes: int64 [K]."""
        return np.bincount(self.labeled(LOOKED_AT)[1], minlength=len(self.classes))

    def labeled(self, first: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scene and class of every digit, or of those in the first `first` scenes: int64 [m] each."""
        labels = [self.annotation(i).labels for i in range(min(len(self), first or len(self)))]
        return np.repeat(np.arange(len(labels)), [len(row) for row in labels]), np.concatenate(labels)

    def objects(self) -> np.ndarray:
        """Digits in each of the first LOOKED_AT scenes: int64 [m]."""
        return np.bincount(self.labeled(LOOKED_AT)[0], minlength=min(len(self), LOOKED_AT))

    def select(self, indices: np.ndarray) -> Scenes:
        return Scenes(self.split, self.indices[indices])

    def relabel(self, classes: Sequence[str]) -> None:
        self._table = label_table(self.classes, classes, np.ones(len(self.classes)))
        self.classes = tuple(classes)

    def _rng(self, i: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(derive_seed(_STREAM[self.split], int(self.indices[i]))))

    def _layout(self, i: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """The digits' masks uint8 [h, w], boxes xyxy float32 [n, 4] and labels int64 [n], in painting order."""
        rng = self._rng(i)
        count = 0 if rng.random() < EMPTY else int(rng.integers(1, MOST + 1))
        masks: list[np.ndarray] = []
        boxes: list[tuple[int, ...]] = []
        labels: list[int] = []
        hidden: list[float] = []  # fraction of each digit's box that later boxes cover
        for _ in range(count):
            chosen = int(rng.integers(len(self._glyphs)))
            side = int(rng.integers(SMALLEST, LARGEST + 1))
            mask = _resized(self._glyphs[chosen], side)
            h, w = mask.shape
            for _ in range(12):
                x, y = int(rng.integers(0, SIDE - w + 1)), int(rng.integers(0, SIDE - h + 1))
                box = (x, y, x + w, y + h)
                after = [share + _covered(old, box) for share, old in zip(hidden, boxes, strict=True)]
                if all(share <= COVERED for share in after):
                    hidden = [*after, 0.0]
                    masks.append(mask)
                    boxes.append(box)
                    labels.append(int(self._labels[chosen]))
                    break
        return masks, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)

    def _compose(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        masks, boxes, _ = self._layout(i)
        rng = np.random.Generator(np.random.PCG64(derive_seed(_STREAM[self.split], int(self.indices[i]), 1)))
        scene = _background(rng)
        for mask, (x, y, right, bottom) in zip(masks, boxes.astype(int).tolist(), strict=True):
            part = scene[y:bottom, x:right]
            color = _color_against(part.mean(axis=(0, 1)), rng)
            alpha = mask[:, :, None].astype(np.float32) * (rng.uniform(0.8, 1.0) / 255)
            part += alpha * (color - part)
        scene += rng.standard_normal(scene.shape, np.float32) * rng.uniform(0, 10)
        return np.clip(np.rint(scene), 0, 255).astype(np.uint8), boxes


def load_scenes() -> dict[str, Scenes]:
    return {split: Scenes(split, np.arange(count)) for split, count in COUNTS.items()}


@lru_cache(maxsize=3)
def _glyphs(split: str) -> list[np.ndarray]:
    """Every digit of a split, cropped to its ink: uint8 [h, w]."""
    cut = []
    for image in load_digits()[split].images:
        rows, columns = np.flatnonzero((image >= INK).any(axis=1)), np.flatnonzero((image >= INK).any(axis=0))
        cut.append(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return cut


def _resized(glyph: np.ndarray, side: int) -> np.ndarray:
    """Resize a glyph so that its longer side is `side` pixels."""
    h, w = glyph.shape
    scale = side / max(h, w)
    size = (max(2, round(w * scale)), max(2, round(h * scale)))
    return np.asarray(Image.fromarray(glyph).resize(size, Image.Resampling.BILINEAR))


def _covered(old: tuple[int, ...], new: tuple[int, ...]) -> float:
    """The fraction of box `old` that box `new` covers."""
    width = min(old[2], new[2]) - max(old[0], new[0])
    height = min(old[3], new[3]) - max(old[1], new[1])
    return max(0, width) * max(0, height) / ((old[2] - old[0]) * (old[3] - old[1]))


def _background(rng: np.random.Generator) -> np.ndarray:
    """A cloudy texture with lines, circles and patches: float32 [SIDE, SIDE, 3].

    Lines cross the whole picture, since a short stroke looks like a 1, and circles are larger than any digit. All have
    less contrast than digits.
    """
    cells = int(rng.integers(2, 12))
    base, spread = rng.uniform(30, 225) + rng.uniform(-25, 25, 3), rng.uniform(4, 20)
    low = np.clip(base + rng.standard_normal((cells, cells, 3)) * spread, 0, 255).astype(np.uint8)
    picture = Image.fromarray(low).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, 9))):
        color = tuple(np.clip(base + rng.uniform(-CLUTTER, CLUTTER, 3), 0, 255).astype(int).tolist())
        thickness = int(rng.integers(1, 4))
        x, y = rng.integers(-10, SIDE + 10, 2).tolist()
        kind = int(rng.integers(4))
        if kind == 0:
            dx, dy = rng.integers(-50, 51, 2).tolist()
            corners = (min(x, x + dx), min(y, y + dy), max(x, x + dx), max(y, y + dy))
            draw.rectangle(corners, fill=color if rng.random() < 0.5 else None, outline=color)
        elif kind == 1:
            radius = int(rng.integers(LARGEST // 2 + 8, SIDE))
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=thickness)
        else:
            angle = rng.uniform(0, np.pi)
            dx, dy = 2 * SIDE * np.cos(angle), 2 * SIDE * np.sin(angle)
            draw.line((x - dx, y - dy, x + dx, y + dy), fill=color, width=thickness)
    return np.array(picture, np.float32)


def _color_against(background: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random color that differs from the background by at least CONTRAST in luminance."""
    weights = np.array([0.299, 0.587, 0.114])
    for _ in range(20):
        color = rng.uniform(0, 255, 3)
        if abs(weights @ (color - background)) >= CONTRAST:
            return color.astype(np.float32)
    return np.full(3, 0.0 if weights @ background > 127 else 255.0, np.float32)
