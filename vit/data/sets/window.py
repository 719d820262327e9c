"""A part of an image, decoded no finer than it is needed. For training: evaluation decodes whole files.

A JPEG can be decoded at 1/2, 1/4 or 1/8 of its sides: libjpeg then computes the low frequencies of each 8 x 8 block
only, and far fewer pixels have to be made, turned to RGB and scaled. Other formats are decoded whole and cut.
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
    """What part of an image is wanted."""

    left: float
    top: float
    right: float
    bottom: float
    """In pixels of the whole, upright image."""
    by: int = 1
    """Each side may be reduced by this: 1, 2, 4 or 8."""


class View(NamedTuple):
    """What was decoded of it."""

    pixels: np.ndarray
    """uint8 [h, w, 3], at least one pixel; it may be a view of a larger array, not to be written to."""
    box: tuple[float, float, float, float]
    """The part that they show, xyxy in pixels of the whole image: the window, but for a pixel of the reduced one."""
    size: tuple[int, int]
    """(H, W) of the whole image."""


Choose = Callable[[tuple[int, int]], Window]
"""The window wanted of an image of (H, W) pixels. A function, because the size is known only once a file is open."""


def cut(image: np.ndarray, window: Window, size: tuple[int, int], by: tuple[float, float] = (1, 1)) -> View:
    """The window out of an upright image uint8 [h, w, 3], whose pixels are as large as `by` (across, down) of an
    original of (H, W) pixels."""
    corners = _corners(window, image.shape[1], image.shape[0], by)
    left, top, right, bottom = corners
    return View(image[top:bottom, left:right], _times(corners, by), size)


def all_of(size: tuple[int, int]) -> Window:
    """All of an image of (H, W) pixels, not reduced."""
    return Window(0, 0, size[1], size[0])


def whole_cut(image: np.ndarray, choose: Choose) -> View:
    """The window that `choose` wants of a whole, decoded image uint8 [H, W, 3]."""
    size = (image.shape[0], image.shape[1])
    return cut(image, choose(size), size)


def decode_window(source: Source, choose: Choose, *, max_pixels: int = MAX_PIXELS) -> View:
    """The window that `choose` wants of an image file, given by its path, its bytes or opened, as RGB.

    At a reduction of 1 the pixels are those of `vit.images.decode.decode`; simplejpeg, where it is installed, makes
    them sooner and changes none. Raises UserError where `decode` does: a JPEG is read to its end, so that a truncated
    one is found whatever part of it is wanted.
    """
    with opened(source, max_pixels=max_pixels) as image:
        size, turn = upright_size(image), orientation(image)
        window = choose(size)
        # A turned image would have its last, incomplete column of reduced pixels first.
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
        if image.mode not in ("RGB", "L"):  # their pixels may have to be seen together
            return cut(to_rgb(image, name_of(source)), window, size, (by, by))
        # An array of the window alone: one of the whole image is a copy as large as the image.
        corners = _corners(window, image.width, image.height, (by, by))
        return View(to_rgb(image.crop(corners), name_of(source)), _times(corners, (by, by)), size)


# What EXIF's orientations ask for; views, not copies.
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
    """The whole of a JPEG as it lies in the file, or None where Pillow must decide: it knows more kinds of JPEG, and
    its word on what is broken counts."""
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
    """The optional decoder (pip install -e ".[fast]"): libjpeg-turbo straight into an array."""
    return importlib.import_module("simplejpeg") if importlib.util.find_spec("simplejpeg") else None


def _corners(window: Window, width: int, height: int, by: tuple[float, float]) -> tuple[int, int, int, int]:
    """left, top, right, bottom of a window in whole pixels of a reduced image of (width, height)."""
    left, right = _bounds(window.left / by[0], window.right / by[0], width)
    top, bottom = _bounds(window.top / by[1], window.bottom / by[1], height)
    return left, top, right, bottom


def _times(corners: tuple[int, int, int, int], by: tuple[float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = corners
    return left * by[0], top * by[1], right * by[0], bottom * by[1]


def _bounds(low: float, high: float, limit: int) -> tuple[int, int]:
    """Whole pixels nearest to low..high within 0..limit, at least one."""
    first = min(max(0, round(low)), limit - 1)
    return first, min(max(first + 1, round(high)), limit)
