"""The data path against the peers': JPEG files -> normalised batches, augmented, with the same operations.

Random resized crop to 224 pixels (area 8 to 100 %, bicubic, antialiased), mirroring, color jitter of 0.4, normalising.
One process, one thread, in turn; the figure is images per second of CPU time, and the ratio to timm within a round.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.contest import parsed, write
from benchmarks.jpegs import write_jpegs
from vit.data import Augment, ImageSet, LabelReader, LoaderOptions, Pipeline, open_data, train_loader
from vit.data.augment import crop as cropping
from vit.data.sets.window import Window
from vit.images.preprocess import Preprocess

SIDE, AREA, RATIO, JITTER = 224, (0.08, 1.0), (3 / 4, 4 / 3), 0.4
AUGMENT = Augment(crop=AREA, ratio=RATIO, flip=0.5, brightness=JITTER, contrast=JITTER, saturation=JITTER)
PREPROCESS = Preprocess((SIDE, SIDE))
QUALITY = {(375, 500): 95, (1500, 2000): 90}
"""Of the JPEGs of (H, W) pixels: some 75 kB and 0.8 MB, as photographs of these sizes have."""


@dataclass(frozen=True)
class Data:
    rounds: int = 7
    images: int = 96
    """Of 500 x 375 pixels; a third as many of 2000 x 1500. Rounded to whole batches."""
    batch_size: int = 32
    quality: int | None = None
    """Of the JPEGs; see QUALITY."""
    pixels: bool = True
    """Also what reduced decoding does to the pixels."""
    json: str | None = None


Epoch = Callable[[], Iterable[Any]]
"""One pass over the files, in batches."""


def files(folder: Path) -> ImageSet:
    """All images of a folder. Never from memory: so few would be kept there, once decoded."""
    images = open_data(str(folder), evaluation=True, kind="labels").test
    assert images is not None
    images.cache = lambda limit=0: False
    return images


def ours(folder: Path, batch_size: int) -> Epoch:
    images = files(folder)

    def epoch() -> Iterable[Any]:
        pipeline = Pipeline(AUGMENT, PREPROCESS)
        return train_loader(
            LabelReader(images, PREPROCESS, pipeline, seed=random.getrandbits(32)),
            LoaderOptions(batch_size=batch_size, epochs=1),
        )

    return epoch


def without_simplejpeg(epoch: Epoch) -> Epoch:
    def pillow() -> Iterable[Any]:
        with mock.patch("vit.data.sets.window._simplejpeg", lambda: None):
            yield from epoch()

    return pillow


def timms(folder: Path, batch_size: int) -> Epoch:
    """`create_loader` as timm's train.py calls it: its prefetcher normalises whole batches."""
    from timm.data.dataset import ImageDataset
    from timm.data.loader import create_loader

    loader: Any = create_loader(
        ImageDataset(str(folder)), (3, SIDE, SIDE), batch_size, is_training=True, scale=AREA, ratio=RATIO, hflip=0.5,
        color_jitter=JITTER, interpolation="bicubic", num_workers=0, device=torch.device("cpu"),
        persistent_workers=False,
    )  # fmt: skip
    return lambda: loader


def torchvisions(folder: Path, batch_size: int, backend: str) -> Epoch:
    """As references/classification/presets.py puts them together for the v2 transforms, with a color jitter."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    bicubic = v2.InterpolationMode.BICUBIC
    steps: list[Any] = [v2.PILToTensor()] if backend == "tensor" else []
    steps += [
        v2.RandomResizedCrop(SIDE, scale=AREA, ratio=RATIO, interpolation=bicubic, antialias=True),
        v2.RandomHorizontalFlip(0.5),
        v2.ColorJitter(JITTER, JITTER, JITTER),
    ]
    steps += [v2.PILToTensor()] if backend == "pil" else []
    steps += [v2.ToDtype(torch.float, scale=True), v2.Normalize(PREPROCESS.mean, PREPROCESS.std), v2.ToPureTensor()]
    loader: Any = torch.utils.data.DataLoader(ImageFolder(str(folder), v2.Compose(steps)), batch_size, shuffle=True)
    return lambda: loader


def contest(folder: Path, count: int, options: Data) -> dict[str, dict[str, float]]:
    """name -> images per second, and the ratio to timm: the median over rounds, the least and the most."""
    mine = ours(folder, options.batch_size)
    epochs: dict[str, Epoch] = {
        "timm create_loader": timms(folder, options.batch_size),
        "torchvision v2, PIL": torchvisions(folder, options.batch_size, "pil"),
        "torchvision v2, tensors": torchvisions(folder, options.batch_size, "tensor"),
        "vitral": mine,
        "vitral without simplejpeg": without_simplejpeg(mine),
    }
    rates: dict[str, list[float]] = {name: [] for name in epochs}
    order = list(epochs)
    for number in range(-1, options.rounds):  # the first warms up
        for name in order:
            seconds = _cpu_seconds(epochs[name], count)
            if number >= 0:
                rates[name].append(count / seconds)
        order = [*order[1:], order[0]]
    result = {}
    for name, own in rates.items():
        ratios = [a / b for a, b in zip(own, rates["timm create_loader"], strict=True)]
        result[name] = {"rate": median(own), "ratio": median(ratios), "least": min(ratios), "most": max(ratios)}
    return result


def _cpu_seconds(epoch: Epoch, count: int) -> float:
    begun, seen = time.process_time(), 0
    for batch in epoch():
        seen += len(batch[0])
    assert seen == count
    return time.process_time() - begun


def reduced_pixels(folder: Path) -> list[dict[str, float]]:
    """What decoding at a reduced scale changes in crops, for several least numbers of pixels that it must leave: peak
    signal-to-noise ratio against the full decode in dB, and the CPU time of a sample beside it."""
    images = files(folder)
    seeds = [(i % len(images), i) for i in range(4 * len(images))]
    pipeline = Pipeline(Augment(crop=AREA, ratio=RATIO), PREPROCESS)

    def samples() -> tuple[list[np.ndarray], float]:
        begun = time.process_time()
        done = [pipeline.read(lambda choose, i=i: images.view(i, choose), seed) for i, seed in seeds]
        return done, (time.process_time() - begun) / len(seeds)

    def whole(box: tuple[float, float, float, float], size: tuple[int, int]) -> Window:
        """The same part, not reduced."""
        return cropping.window_for(box, size)._replace(by=1)

    rows = []
    for spare in (1.0, 1.5, 2.0, 3.0):
        with mock.patch.object(cropping, "SPARE", spare):
            less, fast = samples()
            with mock.patch("vit.data.augment.images.window_for", whole):
                full, slow = samples()
        errors = [np.square(a.astype(np.float64) - b).mean() for a, b in zip(full, less, strict=True)]
        changed = [10 * np.log10(255**2 / error) for error in errors if error > 0]
        row = {"spare": spare, "reduced": len(changed) / len(errors), "time": fast / slow}
        if changed:
            row |= {"psnr": median(changed), "worst": min(changed)}
        rows.append(row)
    return rows


def main(arguments: list[str]) -> None:
    options = parsed(Data, arguments, "data", __doc__)
    torch.set_num_threads(1)
    random.seed(0)
    results: dict[str, Any] = {}
    for (height, width), quality in QUALITY.items():
        # timm leaves out what does not fill a batch.
        batches = (options.images if height < 1000 else options.images // 3) // options.batch_size
        count = max(1, batches) * options.batch_size
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            size = write_jpegs(place / "train", count, (height, width), options.quality or quality)
            told = f"{width}x{height}"
            print(f"\n{told}: {count} JPEGs of {size / 1000:.0f} kB\n{'':<26}{'img/s':>8}  of timm's (least - most)")
            results[told] = rows = contest(place / "train", count, options)
            for name, row in rows.items():
                print(f"{name:<26}{row['rate']:>8.0f}  {row['ratio']:.2f} ({row['least']:.2f} - {row['most']:.2f})")
            if options.pixels:
                results[f"{told} pixels"] = rows = reduced_pixels(place / "train")
                print(
                    "least pixels left a pixel of the crop, each way: reduced, time of full decoding, PSNR, its least"
                )
                for row in rows:
                    told = f"{row['psnr']:.1f} dB, {row['worst']:.1f} dB" if "psnr" in row else "-"
                    print(f"{row['spare']:>5.1f}: {row['reduced']:.0%}, {row['time']:.2f}, {told}")
    write(options.json, results)
