"""Statistics of a training set from a fixed sample of its images: size, color, channel mean and std."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vit.data.sets.imageset import ImageSet
from vit.errors import UserError

SAMPLE = 256


class Survey(NamedTuple):
    """size: median (H, W) in pixels. gray: whether no image has color. mean, std: per channel, of pixels in 0..1."""

    size: tuple[int, int]
    gray: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def survey(images: ImageSet, sample: int = SAMPLE) -> Survey:
    """Measure up to `sample` images, evenly spaced over the set. Unreadable ones are skipped.

    Raises UserError, with the first reason, if none can be read.
    """
    indices = np.unique(np.linspace(0, len(images) - 1, min(sample, len(images))).astype(np.int64))
    sizes: list[tuple[int, int]] = []
    moments: list[np.ndarray] = []
    gray, reason = True, ""
    for i in indices.tolist():
        try:
            pixels = images.image(i)
        except UserError as error:
            reason = reason or str(error)
            continue
        sizes.append(pixels.shape[:2])
        # Every image has the same weight, whatever its size; a grid of its pixels is enough for a mean.
        step = max(1, min(pixels.shape[:2]) // 64)
        few = pixels[::step, ::step].reshape(-1, 3) / 255.0
        moments.append(np.stack([few.mean(axis=0), (few**2).mean(axis=0)]))
        gray = gray and bool((few[:, 0] == few[:, 1]).all() and (few[:, 1] == few[:, 2]).all())
    if not sizes:
        raise UserError(f"None of {len(indices)} training images looked at can be read. The first: {reason}")
    mean, square = np.mean(moments, axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 1e-4))
    height, width = np.median(np.array(sizes), axis=0).round().astype(int).tolist()
    red, green, blue = mean.round(4).tolist()
    return Survey((height, width), gray, (red, green, blue), tuple(std.round(4).tolist()))
