"""`--cache ram|disk`: pixels that are decoded and resized once, and kept for the epochs that follow.

What is kept of an image, and what that changes:
- where its pixels are resized first and augmented then, and in evaluation: exactly what the model's preprocessing makes
  of it. Nothing changes, to the last bit.
- where a random crop comes first: the image scaled down until it just covers ROOM times the model's input, or as it is
  if it is smaller. A crop of less than 1 / ROOM^2 of the area is enlarged from fewer pixels than the file has.
Every image is given in this form, whether it found room or not: samples depend on --cache, not on its size.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import Dataset

from datasets.imageset import ImageSet
from datasets.pixel_file import PixelFolder, Pixels, Places, RamPixels
from datasets.transforms import Pipeline
from datasets.workers import reading, run_reader
from vit.errors import UserError
from vit.image import INTERPOLATIONS, Preprocess

Kind = Literal["none", "ram", "disk"]
ROOM = 1.25
"""How much larger than the model's input an image is kept where a random crop follows."""
AT_ONCE = 16
"""Images that a worker prepares at a time."""
FORM = 1
"""Of what is kept; other pixels need another number."""


@dataclass(frozen=True)
class Prepare:
    """What is kept of an image: uint8 [H, W, 3] -> uint8 [h, w, 3]."""

    preprocess: Preprocess
    exact: bool
    """The model's input itself, and not the image with some room."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if self.exact:
            return self.preprocess.pixels(image)
        h, w = image.shape[:2]
        scale = max(ROOM * self.preprocess.size[0] / h, ROOM * self.preprocess.size[1] / w)
        if scale >= 1:
            return image
        size = (max(1, round(w * scale)), max(1, round(h * scale)))
        return np.asarray(Image.fromarray(image).resize(size, INTERPOLATIONS[self.preprocess.interpolation]))

    def key(self) -> str:
        """What the pixels depend on but the images themselves."""
        used = {**dataclasses.asdict(self.preprocess), "exact": self.exact, "room": ROOM}
        # Normalisation comes later, but the mean fills the borders of a letterbox.
        del used["std"]
        return json.dumps([FORM, PIL.__version__, used], sort_keys=True)


class CachedSet(ImageSet):
    """The images of `source` as `prepare` makes them, those that found room in `pixels` without decoding."""

    def __init__(self, source: ImageSet, prepare: Prepare, pixels: Pixels, places: Places) -> None:
        super().__init__(source.classes, source.targets)
        self.source, self.prepare, self.pixels, self.places = source, prepare, pixels, places

    def name(self, i: int) -> str:
        return self.source.name(i)

    def key(self, i: int) -> bytes:
        return self.source.key(i)

    def file(self, i: int) -> tuple[str, bytes]:
        return self.source.file(i)

    def stamp(self) -> str:
        return self.source.stamp()

    def read(self, i: int) -> np.ndarray:
        if self.places.start[i] < 0:
            return self.prepare(self.source.image(i))
        return self.pixels.at(int(self.places.start[i]), self.places.shape[i].tolist())

    def cache(self, limit: int = 0) -> bool:
        return False

    def select(self, indices: np.ndarray) -> CachedSet:
        return CachedSet(self.source.select(indices), self.prepare, self.pixels, self.places.select(indices))


class PixelCache:
    """What the loaders of a run take their images from.

    gigabytes: the most that is kept, in units of 10^9 bytes: in memory of all sets of the run, on disk of all runs.
    workers: processes that decode. tell: for lines about what is kept; tick: called with the number of images done.
    """

    def __init__(
        self,
        kind: Literal["ram", "disk"],
        gigabytes: float,
        *,
        workers: int = 0,
        tell: Callable[[str], None] = lambda line: None,
        ticker: Callable[[int], Callable[[int], None] | None] = lambda n: None,
    ) -> None:
        self.kind, self.workers, self.tell, self.ticker = kind, workers, tell, ticker
        self._left = int(gigabytes * 10**9)
        if kind == "ram" and (free := _memory()) is not None and 0.8 * free < self._left:
            tell(f"cache: {free / 1e9:.1f} GB of memory are free, of which 80 % are used at most")
            self._left = int(0.8 * free)
        self._folder = PixelFolder(self._left) if kind == "disk" else None
        self._made: dict[tuple[int, str], CachedSet] = {}

    def of(
        self, images: ImageSet, preprocess: Preprocess, pipeline: Pipeline | None
    ) -> tuple[ImageSet, Preprocess, Pipeline | None]:
        """The same images from the cache, with the preprocessing and pipeline that go with it."""
        prepare = Prepare(preprocess, exact=pipeline is None or pipeline.augment.crop is None)
        made = (id(images), prepare.key())
        if made not in self._made:
            self._made[made] = self._keep(images, prepare)
        if prepare.exact:
            # Of the right size already: there is nothing left to cut off.
            preprocess = dataclasses.replace(preprocess, crop=1.0)
            pipeline = Pipeline(pipeline.augment, preprocess) if pipeline is not None else None
        return self._made[made], preprocess, pipeline

    def _keep(self, images: ImageSet, prepare: Prepare) -> CachedSet:
        name = hashlib.blake2b(f"{images.stamp()}\0{prepare.key()}".encode(), digest_size=16).hexdigest()
        found = self._folder.find(name) if self._folder is not None else None
        if found is None:
            found = self._filled(images, prepare, name)
            self._left -= found[0].bytes if self.kind == "ram" else 0
        pixels, places = found
        kept, n = int((places.start >= 0).sum()), len(images)
        where = "memory" if self.kind == "ram" else str(self._folder.path)  # type: ignore[union-attr]
        what = "as the model takes them" if prepare.exact else f"at {ROOM} times the model's input"
        share = "" if kept == n else f", {kept / n:.0%} of all: the rest is decoded every time (--cache-gb)"
        self.tell(f"cache: {kept:,} images {what} in {where}, {pixels.bytes / 1e9:.2f} GB{share}")
        return CachedSet(images, prepare, pixels, places)

    def _filled(self, images: ImageSet, prepare: Prepare, name: str) -> tuple[Pixels, Places]:
        """Decode all images in order, until there is no more room."""
        into = RamPixels() if self._folder is None else self._folder.writer(name)
        limit = self._left if self._folder is None else self._folder.room()
        places = Places.of(len(images))
        tick = self.ticker(len(images))
        with into:
            for done, (i, pixels) in enumerate(_prepared(images, prepare, self.workers), 1):
                if into.bytes + pixels.nbytes > limit:
                    places.complete = False
                    break
                places.start[i], places.shape[i] = into.add(pixels), pixels.shape[:2]
                if tick is not None:
                    tick(done)
            return into.finish(places), places


def _memory() -> int | None:
    """Bytes of memory that programs can still have; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _prepared(images: ImageSet, prepare: Prepare, workers: int) -> Iterator[tuple[int, np.ndarray]]:
    """Every image that can be read, in order."""
    batches = [range(first, min(first + AT_ONCE, len(images))) for first in range(0, len(images), AT_ONCE)]
    for index, shapes, flat in run_reader(_Preparer(images, prepare), batches, workers, torch.device("cpu")):
        start = 0
        for i, (h, w) in zip(index, shapes, strict=True):
            yield i, flat[start : start + h * w * 3].numpy().reshape(h, w, 3)
            start += h * w * 3


class _Preparer(Dataset[Any]):
    def __init__(self, images: ImageSet, prepare: Prepare) -> None:
        self.images, self.prepare = images, prepare

    def __getitem__(self, batch: range) -> tuple[list[int], list[tuple[int, int]], torch.Tensor]:
        found: list[tuple[int, np.ndarray]] = []
        for i in batch:
            reading(i)
            try:
                found.append((i, self.prepare(self.images.image(i))))
            except UserError:
                continue  # read again, and reported, when a batch asks for it
        flat = [pixels.reshape(-1) for _, pixels in found]
        shapes = [(pixels.shape[0], pixels.shape[1]) for _, pixels in found]
        return [i for i, _ in found], shapes, torch.from_numpy(np.concatenate([np.empty(0, np.uint8), *flat]))
