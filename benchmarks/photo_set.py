"""A detection set of real pictures: coins, bricks and galaxies from the pictures inside scikit-image's wheel.

The pictures: Greek coins (Brooklyn Museum), a pavement of bricks (CC0Textures) and the Hubble eXtreme Deep Field
(NASA). Boxes are those of regions found by thresholds and watersheds, checked by eye in what `drawn` gives. Each
picture is cut at upright lines into a part to train on, one to validate and one to test, and each part into tiles: no
pixel is in two parts.

Letters: H, W sides of a picture, R regions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from vit.errors import UserError
from vit.images.draw import Mark, color_of, draw_boxes

CLASSES = ("coin", "brick", "galaxy")
TILE = 126
"""Side of a tile in pixels, or its width where the part is narrower."""
PARTS = {"train": (0.0, 1 / 2), "valid": (1 / 2, 2 / 3), "test": (2 / 3, 1.0)}
"""From and to which share of a picture's width."""
VISIBLE = 0.4
"""An object of which less than this share is in a tile is a crowd there: nothing to find, and no mistake if found."""
GALAXY = 80
"""Pixels of the smallest galaxy that has to be found. Which of the smaller specks is one is anybody's guess: crowds."""
SPECK = 20
STARS = ((253, 166), (753, 577))
"""x and y of the two stars before the galaxies (they have spikes): crowds as well."""


class Picture(NamedTuple):
    pixels: np.ndarray
    """uint8 [H, W, 3]"""
    regions: np.ndarray
    """int [H, W]: 0 where there is no object, else its number from 1."""
    crowd: np.ndarray
    """bool [R]: of object i + 1."""
    scale: float
    """Tiles show the picture enlarged by this."""
    stride: int
    """Some pixels of the enlarged picture from one tile to the next."""


class Objects(NamedTuple):
    """Boxes xyxy float64 [n, 4] in pixels, crowd bool [n]."""

    boxes: np.ndarray
    crowd: np.ndarray


def coins() -> Picture:
    """24 coins: a flood from what is surely coin, up to the edges where it meets one from what is surely background."""
    skimage = scikit_image()
    gray = skimage.data.coins()
    surely = np.where(gray < 30, 1, np.where(gray > 150, 2, 0))
    flooded = skimage.segmentation.watershed(skimage.filters.sobel(gray), surely) == 2
    regions = _numbered(_labels(_opened(ndimage.binary_fill_holes(flooded))), 300)
    return Picture(_color(gray), regions, np.zeros(regions.max(), bool), 1.0, TILE // 4)


def bricks() -> Picture:
    """What is darker than the mortar around it."""
    skimage = scikit_image()
    gray = skimage.data.brick()
    smooth = skimage.filters.gaussian(gray.astype(float), 1)
    mortar = smooth > skimage.filters.threshold_local(smooth, 61, offset=-8)
    regions = _numbered(_labels(_opened(~mortar)), 150)
    return Picture(_color(gray), regions, np.zeros(regions.max(), bool), 1.0, TILE // 2)


def galaxies() -> Picture:
    """What is brighter than the sky; neighbors are parted where the light between them is weakest."""
    skimage = scikit_image()
    image = skimage.data.hubble_deep_field()
    light = image.max(-1).astype(float)
    smooth = skimage.filters.gaussian(light, 2)
    peaks = _labels(skimage.morphology.h_maxima(smooth, 15))
    lit = skimage.filters.gaussian(light, 1) > 60
    regions = _numbered(skimage.segmentation.watershed(-smooth, peaks, mask=lit), SPECK)
    crowd = np.bincount(regions.ravel())[1:] < GALAXY
    crowd[[regions[y, x] - 1 for x, y in STARS]] = True
    return Picture(image, regions, crowd, 1.5, TILE)


def pictures() -> dict[str, Picture]:
    """Of each class its picture."""
    return dict(zip(CLASSES, (coins(), bricks(), galaxies()), strict=True))


def scikit_image() -> Any:
    try:
        import skimage
    except ImportError as error:
        raise UserError(
            f'the pictures are in the package scikit-image ({error}): pip install -e ".[benchmarks]".'
        ) from None
    return skimage


def write_photo_set(folder: Path, pictures: Mapping[str, Picture]) -> dict[str, dict[str, int]]:
    """DIR/{train,valid,test}/_annotations.coco.json with the tiles beside it; of each split how many tiles, and how
    many objects of each class."""
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
    counts: dict[str, dict[str, int]] = {}
    for split, part in PARTS.items():
        (folder / split).mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for k, (name, picture) in enumerate(pictures.items(), 1):
            for (x, y), pixels, objects in tiles(picture, part):
                file = f"{name} {x} {y}.png"
                Image.fromarray(pixels).save(folder / split / file, compress_level=1)
                height, width = pixels.shape[:2]
                images.append({"id": len(images) + 1, "file_name": file, "width": width, "height": height})
                for (left, top, right, bottom), crowd in zip(*(column.tolist() for column in objects), strict=True):
                    box = [left, top, right - left, bottom - top]
                    ids = {"id": len(annotations) + 1, "image_id": len(images), "category_id": k}
                    annotations.append({**ids, "bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd)})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content), encoding="utf-8")
        found = [entry["category_id"] - 1 for entry in annotations if not entry["iscrowd"]]
        counts[split] = {"tiles": len(images), **{name: found.count(k) for k, name in enumerate(CLASSES)}}
    return counts


def tiles(picture: Picture, part: tuple[float, float]) -> Iterator[tuple[tuple[int, int], np.ndarray, Objects]]:
    """The tiles of one part: (x, y) in the enlarged picture, pixels uint8 [h, w, 3], objects in pixels of the tile."""
    height, width = (round(side * picture.scale) for side in picture.regions.shape)
    pixels = np.asarray(Image.fromarray(picture.pixels).resize((width, height), Image.Resampling.BICUBIC))
    regions = Image.fromarray(picture.regions.astype(np.int32)).resize((width, height), Image.Resampling.NEAREST)
    begin, end = round(part[0] * width), round(part[1] * width)
    whole = np.bincount(np.asarray(regions).ravel(), minlength=len(picture.crowd) + 1)
    for y in _starts(0, height, picture.stride):
        for x in _starts(begin, end, picture.stride):
            here = slice(y, min(y + TILE, height)), slice(x, min(x + TILE, end))
            yield (x, y), pixels[here], _objects(np.asarray(regions)[here], whole, picture.crowd)


def drawn(picture: Picture) -> np.ndarray:
    """With its boxes, uint8 [h, w, 3]; crowds are gray."""
    objects = _objects(picture.regions, np.bincount(picture.regions.ravel()), picture.crowd)
    marks = [
        Mark(box, "", (150, 150, 150) if crowd else color_of(0))
        for box, crowd in zip(*(column.tolist() for column in objects), strict=True)
    ]
    return draw_boxes(picture.pixels, marks)


def _objects(regions: np.ndarray, whole: np.ndarray, crowd: np.ndarray) -> Objects:
    """What is seen of each region; whole: the pixels of region i in the whole picture, int [R + 1]."""
    seen = np.bincount(regions.ravel(), minlength=len(whole))
    places = ndimage.find_objects(regions)
    there = [i for i, place in enumerate(places) if place is not None]
    boxes = [[places[i][1].start, places[i][0].start, places[i][1].stop, places[i][0].stop] for i in there]
    hidden = seen[1:] < VISIBLE * whole[1:]
    return Objects(np.array(boxes, float).reshape(-1, 4), (crowd | hidden)[there])


def _starts(begin: int, end: int, stride: int) -> list[int]:
    """Where tiles begin so that they are at most a stride apart and cover `begin`..`end`, but for a rest that is too
    narrow to be worth a tile."""
    room = max(0, end - begin - TILE)
    steps = max(0, math.ceil((room - TILE / 8) / stride))
    return [begin + round(room * i / max(1, steps)) for i in range(steps + 1)]


def _opened(mask: np.ndarray | None) -> np.ndarray:
    """Without what a disk of 7 pixels does not fit into."""
    skimage = scikit_image()
    return skimage.morphology.opening(mask, skimage.morphology.disk(3))


def _labels(mask: np.ndarray) -> np.ndarray:
    """Connected regions: int of the same shape, 0 outside of the mask."""
    labels: Any = ndimage.label(mask)
    return labels[0]


def _numbered(labels: np.ndarray, smallest: int) -> np.ndarray:
    """int64 of the same shape: the regions of at least `smallest` pixels, numbered from 1."""
    keep = np.bincount(labels.ravel()) >= smallest
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0)[labels]


def _color(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[:, :, None], 3, axis=2)
