"""Boxes with names, painted on an image so that they are readable at any size."""

from __future__ import annotations

import colorsys
import importlib.util
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

# Bright, and distinct for people who are color-blind (after Okabe and Ito 2008); more follow by hue.
COLORS: tuple[Color, ...] = (
    (255, 176, 0), (86, 180, 255), (0, 200, 140), (240, 228, 66), (255, 95, 60), (225, 120, 230), (120, 94, 240),
    (160, 220, 60), (255, 130, 170), (60, 220, 230),
)  # fmt: skip
READABLE = 480
"""An image with a longer side below this, in pixels, is enlarged."""
FONT_SHARE, SMALLEST_FONT = 1 / 65, 12
CROWDED = 25
"""With more boxes than this, lines and names are smaller, and a name that would cover another is left out."""


class Mark(NamedTuple):
    xyxy: Sequence[float]
    """(left, top, right, bottom) in pixels."""
    text: str
    """"" for none."""
    color: Color
    dashed: bool = False


def color_of(label: int) -> Color:
    """The color of a class, the same in every image."""
    if label < len(COLORS):
        return COLORS[label]
    hue = label * 0.618034 % 1  # the golden ratio: neighboring labels are far apart in hue
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(image: np.ndarray, marks: Sequence[Mark], *, text: float = FONT_SHARE) -> np.ndarray:
    """image uint8 [H, W, 3], marks in its pixels, best first -> a painted copy, enlarged by a whole factor if it is
    small. text: height of the names as a share of the image's longer side."""
    factor = max(1, math.ceil(READABLE / max(image.shape[:2])))
    height, width = image.shape[0] * factor, image.shape[1] * factor
    picture = Image.fromarray(image)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC) if factor > 1 else picture.copy()
    draw = ImageDraw.Draw(picture)
    crowded = len(marks) > CROWDED
    font = font_of(max(SMALLEST_FONT, round(max(height, width) * text * (0.65 if crowded else 1))))
    line = max(2 if crowded else 3, round(max(height, width) / (400 if crowded else 240)))
    scaled = [mark._replace(xyxy=tuple(value * factor for value in mark.xyxy)) for mark in marks]
    for mark in reversed(scaled):  # the best on top
        _outline(draw, mark, line)
    taken: list[Rectangle] = []
    for mark in scaled:
        if mark.text:
            _name(draw, mark, font, (width, height), taken, must=not crowded)
    return np.asarray(picture)


def _outline(draw: ImageDraw.ImageDraw, mark: Mark, line: int) -> None:
    left, top, right, bottom = mark.xyxy
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    if mark.dashed:
        step = 4 * line
        for x in np.arange(left, right, 2 * step):
            for y in (top, bottom - line):
                draw.rectangle((x, y, min(x + step, right), y + line - 1), fill=mark.color)
        for y in np.arange(top, bottom, 2 * step):
            for x in (left, right - line):
                draw.rectangle((x, y, x + line - 1, min(y + step, bottom)), fill=mark.color)
        return
    # A thin dark outline keeps a light line visible on a light background.
    draw.rectangle((left - 1, top - 1, right, bottom), outline=(0, 0, 0))
    draw.rectangle((left, top, right - 1, bottom - 1), outline=mark.color, width=line)


def _name(
    draw: ImageDraw.ImageDraw, mark: Mark, font: Any, size: tuple[int, int], taken: list[Rectangle], must: bool
) -> None:
    """Draw a name above the box, else below, else inside it: at the first place in the image that covers no other
    name."""
    left, top, right, bottom = mark.xyxy
    x0, y0, x1, y1 = draw.textbbox((0, 0), mark.text, font=font)
    pad = max(2, round((y1 - y0) / 5))
    w, h = x1 - x0 + 2 * pad, y1 - y0 + 2 * pad

    def at(x: float, y: float) -> Rectangle:
        x = min(max(0.0, x), max(0.0, size[0] - w))
        return x, y, x + w, y + h

    places = [at(left, top - h), at(left, bottom), at(right - w, top - h), at(right - w, bottom), at(left, top),
              at(right - w, bottom - h)]  # fmt: skip
    inside = [place for place in places if place[1] >= 0 and place[3] <= size[1]] or [at(left, max(0.0, top))]
    free = [place for place in inside if not any(_meet(place, other) for other in taken)]
    if not free and not must:
        return
    place = (free or inside)[0]
    taken.append(place)
    draw.rectangle(place, fill=mark.color)
    light = 0.299 * mark.color[0] + 0.587 * mark.color[1] + 0.114 * mark.color[2] > 110
    draw.text((place[0] + pad - x0, place[1] + pad - y0), mark.text, font=font, fill=(0, 0, 0) if light else (255,) * 3)


def _meet(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@lru_cache(maxsize=8)
def font_of(size: int) -> Any:
    """DejaVu Sans from matplotlib's files, which has Greek and Cyrillic; matplotlib itself is not imported."""
    spec = importlib.util.find_spec("matplotlib")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        file = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)
