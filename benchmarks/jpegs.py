"""JPEG files of a chosen size, made of real photographs: scikit-learn's two and scikit-image's, where it is there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

SOURCES = {
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
    "skimage": ("data", ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")),
}
TILE = (375, 500)
"""(H, W) of a piece of one photograph. Larger images are put together from such pieces: enlarged, the photographs would
have no fine detail, and files of a third of the bytes that cameras write."""


def photographs() -> list[Image.Image]:
    """RGB, some 450 to 740 pixels wide."""
    found = []
    for package, (folder, names) in SOURCES.items():
        spec = importlib.util.find_spec(package)
        root = Path((spec.submodule_search_locations or [""])[0]) if spec else Path()
        found += [Image.open(file).convert("RGB") for name in names if (file := root / folder / name).is_file()]
    return found


def write_jpegs(folder: Path, count: int, size: tuple[int, int], quality: int, seed: int = 0) -> float:
    """FOLDER/{a,b}/*.jpg of (H, W) pixels, `count` in all; the mean size of a file in bytes."""
    rng, sources, total = np.random.default_rng(seed), photographs(), 0
    for i in range(count):
        file = folder / "ab"[i % 2] / f"{i:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        collage(sources, size, rng).save(file, quality=quality)
        total += file.stat().st_size
    return total / count


def collage(sources: list[Image.Image], size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Pieces of photographs, cut out and resized at random, side by side."""
    canvas = Image.new("RGB", (size[1], size[0]))
    for top in range(0, size[0], TILE[0]):
        for left in range(0, size[1], TILE[1]):
            canvas.paste(piece(sources[rng.integers(len(sources))], rng), (left, top))
    return canvas


def piece(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of 80 to 100 % of the largest that has the shape of TILE, scaled to it."""
    height, width = TILE
    largest = min(photo.width / width, photo.height / height)
    share = largest * rng.uniform(0.8, 1.0)
    w, h = width * share, height * share
    left, top = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
    return photo.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
