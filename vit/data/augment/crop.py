"""Random resized crops, as in Inception, and how they are scaled."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from vit.data.sets.window import Window
from vit.images.preprocess import INTERPOLATIONS

TRIES = 10
"""Crops to draw until one lies within the image."""
SPARE = 1.0
"""A reduced crop keeps at least this many pixels per output pixel along each axis (benchmarks/LOG.md)."""


def random_crop(
    size: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float], numbers: np.ndarray
) -> tuple[int, int, int, int]:
    """A rectangle (left, top, right, bottom) in an image of (H, W) pixels (Szegedy et al. 2015, section 6).

    Its share of the area is uniform in `area`, its width / height log-uniform in `ratio`, as in torchvision. If none of
    TRIES fits, it is the largest central crop with a ratio in range. numbers: float [TRIES, 4], uniform in 0..1.
    """
    height, width = size
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for share, shape, across, down in numbers.tolist():
        wanted = height * width * (area[0] + share * (area[1] - area[0]))
        factor = math.exp(low + shape * (high - low))
        w, h = round(math.sqrt(wanted * factor)), round(math.sqrt(wanted / factor))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def window_for(box: tuple[float, float, float, float], size: tuple[int, int]) -> Window:
    """The window that shows `box` scaled to (h, w) pixels. It is reduced if that hardly shows; its corners then move to
    whole pixels of the reduced image."""
    share = min((box[3] - box[1]) / size[0], (box[2] - box[0]) / size[1]) / SPARE
    by = next((by for by in (8, 4, 2) if share >= by), 1)
    return Window(*(round(side / by) * by for side in box), by=by)


def resized(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [h, w, 3] of `size`, antialiased when it shrinks; read-only.

    torch's kernels are vectorized versions of Pillow's filters: the same within one level, in a quarter of the time.
    """
    if not (pixels.flags.c_contiguous and pixels.flags.writeable):
        pixels = np.array(pixels, order="C")  # torch warns about read-only arrays
    if pixels.shape[:2] == size:
        return pixels
    if interpolation not in ("bilinear", "bicubic"):
        return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), INTERPOLATIONS[interpolation]))
    # Channels last, also in the strides of the batch of one, so that the result is [h, w, 3] in memory.
    batch = torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
    return F.interpolate(batch, size, mode=interpolation, antialias=True)[0].permute(1, 2, 0).contiguous().numpy()
