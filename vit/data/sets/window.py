"""Decode part of an image at no more resolution than needed. For training; evaluation decodes whole files.

A JPEG can be decoded at 1/2, 1/4 or 1/8 scale: libjpeg then computes only the low frequencies of each 8 x 8 block,
and far fewer pixels are converted to RGB and resized. Other formats are decoded whole and cropped.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vit.images.decode import MAX_PIXELS, Source, file_of, name_of, opened, orientation, upright, upright_size
from vit.images.rgb import to_rgb


class Window(NamedTuple):
    """The requested part of an image."""

    left: float
    top: float
    right: float
    bottom: float
    """In pixels of the whole, upright image."""
    by: int = 1
    """Each side may be reduced by this factor: 1, 2, 4 or 8."""


class View(NamedTuple):
    """The decoded part of an image."""

    pixels: np.ndarray
    """uint8 [h, w, 3], at least one pixel; read-only, since it may be a view of a larger array."""
    box: tuple[float, float, float, float]
    """xyxy in pixels of the whole image: the window, to within one reduced pixel."""
    size: tuple[int, int]
    """(H, W) of the whole image."""


Choose = Callable[[tuple[int, int]], Window]
"""Maps (H, W) of an image to a window. A function, because the size is known only once the file is open."""


def cut(image: np.ndarray, window: Window, size: tuple[int, int], by: tuple[float, float] = (1, 1)) -> View:
    """Crop the window from an upright image uint8 [h, w, 3], reduced by `by` (across, down) from an original of `size`
    (H, W)."""
    corners = _corners(window, image.shape[1], image.shape[0], by)
    left, top, right, bottom = corners
    return View(image[top:bottom, left:right], _times(corners, by), size)


def all_of(size: tuple[int, int]) -> Window:
    """The window that covers an image of (H, W) pixels, not reduced."""
    return Window(0, 0, size[1], size[0])


def whole_cut(image: np.ndarray, choose: Choose) -> View:
    """Crop the window that `choose` returns from a decoded image uint8 [H, W, 3]."""
    size = (image.shape[0], image.shape[1])
    return cut(image, choose(size), size)


def decode_window(source: Source, choose: Choose, *, max_pixels: int = MAX_PIXELS) -> View:
    """Decode the window that `choose` returns from an image file (path, bytes or open file), as RGB.

    At a reduction of 1, the pixels equal those of `vit.images.decode.decode`; simplejpeg, if installed, is faster and
    gives the same pixels. Raises UserError where `decode` does; a JPEG is read to its end, so truncation is always
    detected.
    """
    with opened(source, max_pixels=max_pixels) as image:
        size, turn = upright_size(image), orientation(image)
        window = choose(size)
        # Rotating would move the last, incomplete column of reduced pixels to the front.
        whole = turn == 1 or not (size[0] % window.by or size[1] % window.by)
        by = window.by if whole and image.format in ("JPEG", "MPO") else 1
        pixels = _by_simplejpeg(image, by)
        if pixels is not None:
            return cut(_TURNS.get(turn, _TURNS[1])(pixels), window, size, (by, by))
        if by > 1:
            width = image.width
            image.draft(None, (max(1, width // by), max(1, image.height // by)))
            by = round(width / image.width)
        image.load()
        image = upright(image)
        if image.mode not in ("RGB", "L"):  # conversion may need all pixels
            return cut(to_rgb(image, name_of(source)), window, size, (by, by))
        # Convert only the window; an array of the whole image would be a full copy.
        corners = _corners(window, image.width, image.height, (by, by))
        return View(to_rgb(image.crop(corners), name_of(source)), _times(corners, (by, by)), size)


# EXIF orientations, applied as views, not copies.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


def _by_simplejpeg(image: Image.Image, by: int) -> np.ndarray | None:
    """Decode a whole JPEG, not yet rotated; None to fall back to Pillow, which supports more kinds of JPEG and decides
    what is broken."""
    library = _simplejpeg()
    file = file_of(image)
    if library is None or image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L") or file is None:
        return None
    file.seek(0)
    data = file.read()
    least = {} if by == 1 else {"min_height": -(-image.height // by), "min_width": -(-image.width // by)}
    try:
        pixels = library.decode_jpeg(data, "RGB", **least)
    except ValueError:
        return None
    return pixels if pixels.shape == (-(-image.height // by), -(-image.width // by), 3) else None


@cache
def _simplejpeg() -> Any:
    """The optional decoder (pip install -e ".[fast]"): libjpeg-turbo into an array."""
    return importlib.import_module("simplejpeg") if importlib.util.find_spec("simplejpeg") else None


def _corners(window: Window, width: int, height: int, by: tuple[float, float]) -> tuple[int, int, int, int]:
    """left, top, right, bottom of a window, in whole pixels of a reduced image of width x height."""
    left, right = _bounds(window.left / by[0], window.right / by[0], width)
    top, bottom = _bounds(window.top / by[1], window.bottom / by[1], height)
    return left, top, right, bottom


def _times(corners: tuple[int, int, int, int], by: tuple[float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = corners
    return left * by[0], top * by[1], right * by[0], bottom * by[1]


def _bounds(low: float, high: float, limit: int) -> tuple[int, int]:
    """Round low..high to whole pixels within 0..limit, at least one."""
    first = min(max(0, round(low)), limit - 1)
    return first, min(max(first + 1, round(high)), limit)
