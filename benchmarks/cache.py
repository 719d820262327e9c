"""`--cache`: epochs from decoded, resized images in memory and on disk against decoding every time.

One process, one thread; random resized crop to 224 pixels, mirroring and color jitter (the augmentation `light`). The
epochs are run in turn; the figures are images per second of CPU time, and the ratio to no cache within a round.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.contest import parsed, write
from benchmarks.photos import write_photos
from vit.data import ImageSet, LabelReader, LoaderOptions, Pipeline, named_augment, open_data, train_loader
from vit.data.load.pixel_cache import PixelCache
from vit.images.preprocess import Preprocess

SIZES = ((375, 500), (1500, 2000))
KINDS = ("none", "ram", "disk")
SIZE = Preprocess((224, 224))


@dataclass(frozen=True)
class Cache:
    images: int = 96
    """Of 500 x 375 pixels; a third as many of 2000 x 1500."""
    rounds: int = 5
    batch_size: int = 32
    json: str | None = None


def main(arguments: Sequence[str]) -> None:
    options = parsed(Cache, arguments, "cache", __doc__)
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VITRAL_CACHE"] = f"{folder}/cache"
        for number, size in enumerate(SIZES):
            name = f"{size[1]}x{size[0]}"
            write_photos(Path(folder, name), options.images // (1, 3)[number], size, seed=number)
            images = open_data(f"{folder}/{name}", evaluation=True, kind="labels").test
            assert images is not None
            images.cache = lambda limit=0: False  # type: ignore[method-assign]  # so few are kept in memory anyway
            print(f"{len(images)} JPEGs of {name} pixels")
            found[name] = {**speed(images, options), **pixels(images)}
    write(options.json, found)


def speed(images: ImageSet, options: Cache) -> dict[str, Any]:
    caches: dict[str, PixelCache | None] = {"none": None}
    made: dict[str, float] = {}
    for kind in ("ram", "disk"):
        caches[kind] = cache = PixelCache(kind, 8.0)
        begun = time.process_time()
        cache.of(images, SIZE, light())
        made[kind] = time.process_time() - begun
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for seed in range(options.rounds):
        for kind in KINDS:
            rates[kind].append(epoch(images, caches[kind], options.batch_size, seed))
    for kind in KINDS:
        ratio = median(a / b for a, b in zip(rates[kind], rates["none"], strict=True))
        fill = f", made in {made[kind]:.1f} s of CPU time" if kind in made else ""
        print(f"  {kind:<5} {median(rates[kind]):6.0f} images/s, {ratio:.2f} times no cache{fill}")
    return {"images_per_s": rates, "made_s": made}


def light() -> Pipeline:
    return Pipeline(named_augment("light"), SIZE)


def epoch(images: ImageSet, cache: PixelCache | None, batch_size: int, seed: int) -> float:
    """Images per second of CPU time."""
    loader = train_loader(
        LabelReader(images, SIZE, light(), seed=seed), LoaderOptions(batch_size=batch_size, epochs=1, cache=cache)
    )
    begun, count = time.process_time(), 0
    for batch in loader:
        count += len(batch.index)
    return count / (time.process_time() - begun)


def pixels(images: ImageSet) -> dict[str, float]:
    """How far the same samples are from those without a cache, in gray levels of 0..255, and how much less they vary
    from pixel to pixel."""
    plain, kept = (
        torch.cat(
            [
                b.images
                for b in train_loader(
                    LabelReader(images, SIZE, light()), LoaderOptions(batch_size=8, epochs=1, cache=cache)
                )
            ]
        )
        for cache in (None, PixelCache("ram", 8.0))
    )
    a, b = (SIZE.denormalize(values).astype(np.float32) for values in (plain, kept))
    far = float(np.abs(a - b).mean())
    detail = float(np.abs(np.diff(b, axis=2)).mean() / np.abs(np.diff(a, axis=2)).mean())
    print(f"  the same samples differ by {far:.1f} gray levels on average, and have {detail:.0%} of the detail")
    return {"difference": far, "detail": detail}
