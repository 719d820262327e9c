"""Random resized crops (Inception's), and scaling what they cut out."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from vit.data.sets.window import Window
from vit.images.preprocess import INTERPOLATIONS

TRIES = 10
"""Crops that are drawn until one lies within the image."""
SPARE = 1.0
"""A reduced crop keeps at least so many pixels a pixel of the result, each way (benchmarks/LOG.md)."""


def random_crop(
    size: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float], numbers: np.ndarray
) -> tuple[int, int, int, int]:
    """A rectangle (left, top, right, bottom) in an image of (H, W) pixels (Szegedy et al. 2015, section 6).

    Its area is a share of the image's, uniform in `area`, its width / height uniform in the logarithm over `ratio`, as
    torchvision draws them. Where none of TRIES fits, the largest middle part whose ratio is in range. `numbers`: float
    [TRIES, 4], uniform in 0..1.
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
    """The window that shows `box` when it is scaled to (h, w) pixels, reduced where that is hardly seen: its corners
    are then moved to whole pixels of the reduced image."""
    share = min((box[3] - box[1]) / size[0], (box[2] - box[0]) / size[1]) / SPARE
    by = next((by for by in (8, 4, 2) if share >= by), 1)
    return Window(*(round(side / by) * by for side in box), by=by)


def resized(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [h, w, 3] of `size`, antialiased when it shrinks; not to be written to.

    torch's kernels are Pillow's filters on vector units: the same within one level, in a quarter of the time.
    """
    if not (pixels.flags.c_contiguous and pixels.flags.writeable):
        pixels = np.array(pixels, order="C")  # torch warns of an array that is not writable
    if pixels.shape[:2] == size:
        return pixels
    if interpolation not in ("bilinear", "bicubic"):
        return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), INTERPOLATIONS[interpolation]))
    # Channels last, also in the strides of the batch of one: the result lies in memory as [h, w, 3].
    batch = torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
    return F.interpolate(batch, size, mode=interpolation, antialias=True)[0].permute(1, 2, 0).contiguous().numpy()
