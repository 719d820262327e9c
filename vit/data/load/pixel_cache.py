"""`--cache ram|disk`: decode and resize images once, and keep their pixels for all epochs.

What is stored for an image, and its effect:
- in evaluation, and if resizing precedes augmentation: the exact output of the model's preprocessing. Nothing changes,
  to the last bit.
- with augmented boxes: the image, scaled down to ROOM times its size in evaluation if it is larger. Where augmentation
  shows it larger still, it uses fewer pixels than the file has.
- if a random crop comes first: the image, scaled down until it just covers ROOM times the model's input, if it is
  larger. A crop of less than 1 / ROOM^2 of the area is enlarged from fewer pixels than the file has.
Every image is read in this form, cached or not: samples depend on --cache, but not on the size of the cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import Dataset

from vit.data.augment.images import Pipeline
from vit.data.load.pixel_file import PixelFolder, Pixels, Places, RamPixels
from vit.data.load.workers import reading, run_reader
from vit.data.sets.boxset import Annotation, Boxed, BoxSet
from vit.data.sets.imageset import ImageSet
from vit.data.sets.window import Choose, View, cut
from vit.errors import UserError
from vit.images.preprocess import INTERPOLATIONS, Preprocess

Kind = Literal["none", "ram", "disk"]
ROOM = 1.25
"""Size of a stored image relative to the model's input if a random crop follows."""
AT_ONCE = 16
"""Images per task of a worker."""
FORM = 2
"""Version of the stored pixels; increase it when they change."""


@dataclass(frozen=True)
class Prepare:
    """What to store for an image: uint8 [H, W, 3] -> uint8 [h, w, 3]."""

    preprocess: Preprocess
    exact: bool
    """Store the model's input itself, not a larger image."""
    boxes: bool = False
    """Scale each side to ROOM times its size in evaluation, instead of making the image cover ROOM times the input."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if self.exact:
            return self.preprocess.pixels(image)
        h, w = image.shape[:2]
        if self.boxes:
            place = self.preprocess.placement((h, w))
            scale_x, scale_y = min(1.0, ROOM * place.scale_x), min(1.0, ROOM * place.scale_y)
        else:
            scale_x = scale_y = max(ROOM * self.preprocess.size[0] / h, ROOM * self.preprocess.size[1] / w)
        if min(scale_x, scale_y) >= 1:
            return image
        size = (max(1, round(w * scale_x)), max(1, round(h * scale_y)))
        return np.asarray(Image.fromarray(image).resize(size, INTERPOLATIONS[self.preprocess.interpolation]))

    def key(self) -> str:
        """Everything that the pixels depend on except the images."""
        used = {**dataclasses.asdict(self.preprocess), "exact": self.exact, "boxes": self.boxes, "room": ROOM}
        # Normalization comes later, but the mean fills the borders of a letterbox.
        del used["std"]
        return json.dumps([FORM, PIL.__version__, used], sort_keys=True)


class CachedSet(ImageSet):
    """The images of `source` in the form of `prepare`; those stored in `pixels` are not decoded again."""

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
        return type(self)(self.source.select(indices), self.prepare, self.pixels, self.places.select(indices))


class CachedBoxes(CachedSet):
    """The same for images with boxes. Boxes, and the windows of `view`, stay in pixels of the original image."""

    source: Any

    def annotation(self, i: int) -> Annotation:
        return self.source.annotation(i)

    def image_id(self, i: int) -> int:
        return self.source.image_id(i)

    def counts(self) -> np.ndarray:
        return self.source.counts()

    def labeled(self) -> tuple[np.ndarray, np.ndarray]:
        return self.source.labeled()

    def objects(self) -> np.ndarray:
        return self.source.objects()

    def whole(self, i: int) -> View:
        if self.places.start[i] < 0:
            image = self.source.image(i)
            pixels, size = self.prepare(image), (image.shape[0], image.shape[1])
        else:
            pixels, size = self.read(i), (int(self.places.size[i, 0]), int(self.places.size[i, 1]))
            if isinstance(self.source, Boxed):  # the annotations may have changed since
                self.source.check_size(i, size)
        return View(pixels, (0, 0, size[1], size[0]), size)

    def view(self, i: int, choose: Choose) -> View:
        pixels, _, (height, width) = self.whole(i)
        by = (width / pixels.shape[1], height / pixels.shape[0])
        return cut(pixels, choose((height, width)), (height, width), by)


Kept = TypeVar("Kept", bound=CachedSet)


class PixelCache:
    """The image cache of the loaders of a run.

    gigabytes: maximum size, in units of 10^9 bytes: in memory of all sets of the run, on disk of all runs.
    workers: processes that decode. log: receives lines about the stored images. ticker: maps the number of images to a
    callback that receives the number done.
    """

    def __init__(
        self,
        kind: Literal["ram", "disk"],
        gigabytes: float,
        *,
        workers: int = 0,
        log: Callable[[str], None] = lambda line: None,
        ticker: Callable[[int], Callable[[int], None] | None] = lambda n: None,
    ) -> None:
        self.kind, self.workers, self.log, self.ticker = kind, workers, log, ticker
        self._left = int(gigabytes * 10**9)
        if kind == "ram" and (free := _memory()) is not None and 0.8 * free < self._left:
            log(f"Cache: {free / 1e9:.1f} GB of memory are free, of which at most 80 % are used.")
            self._left = int(0.8 * free)
        self._folder = PixelFolder(self._left) if kind == "disk" else None
        self._made: dict[tuple[int, str], Any] = {}

    def of(
        self, images: ImageSet, preprocess: Preprocess, pipeline: Pipeline | None
    ) -> tuple[ImageSet, Preprocess, Pipeline | None]:
        """The same images from the cache, with the preprocessing and pipeline to apply to them."""
        prepare = Prepare(preprocess, exact=pipeline is None or pipeline.augment.crop is None)
        kept = self._once(images, prepare, CachedSet)
        if prepare.exact:
            # The images have their final size, so nothing is left to crop.
            preprocess = dataclasses.replace(preprocess, crop=1.0)
            pipeline = Pipeline(pipeline.augment, preprocess) if pipeline is not None else None
        return kept, preprocess, pipeline

    def of_boxes(self, images: BoxSet, preprocess: Preprocess, *, exact: bool) -> CachedBoxes:
        """The same images with boxes from the cache. exact: they are only read exactly as in evaluation."""
        return self._once(images, Prepare(preprocess, exact, boxes=True), CachedBoxes)

    def _once(self, images: Any, prepare: Prepare, kind: type[Kept]) -> Kept:
        made = (id(images), prepare.key())
        if made not in self._made:
            self._made[made] = self._keep(images, prepare, kind)
        return self._made[made]

    def _keep(self, images: Any, prepare: Prepare, kind: type[Kept]) -> Kept:
        name = hashlib.blake2b(f"{images.stamp()}\0{prepare.key()}".encode(), digest_size=16).hexdigest()
        found = self._folder.find(name) if self._folder is not None else None
        if found is None:
            found = self._filled(images, prepare, name)
            self._left -= found[0].bytes if self.kind == "ram" else 0
        pixels, places = found
        kept, n = int((places.start >= 0).sum()), len(images)
        where = "memory" if self.kind == "ram" else str(self._folder.path)  # type: ignore[union-attr]
        what = "as the model takes them" if prepare.exact else f"at {ROOM} times the model's input"
        share = "" if kept == n else f", {kept / n:.0%} of all: the rest is decoded in every epoch (--cache-gb)"
        self.log(f"Cache: {kept:,} images {what} in {where}, {pixels.bytes / 1e9:.2f} GB{share}.")
        return kind(images, prepare, pixels, places)

    def _filled(self, images: ImageSet, prepare: Prepare, name: str) -> tuple[Pixels, Places]:
        """Decode the images in order until the cache is full."""
        into = RamPixels() if self._folder is None else self._folder.writer(name)
        limit = self._left if self._folder is None else self._folder.room()
        places = Places.of(len(images))
        tick = self.ticker(len(images))
        with into:
            for done, (i, pixels, size) in enumerate(_prepared(images, prepare, self.workers), 1):
                if into.bytes + pixels.nbytes > limit:
                    places.complete = False
                    break
                places.start[i], places.shape[i], places.size[i] = into.add(pixels), pixels.shape[:2], size
                if tick is not None:
                    tick(done)
            return into.finish(places), places


def _memory() -> int | None:
    """Bytes of memory available to programs; None if the system does not report it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _prepared(images: ImageSet, prepare: Prepare, workers: int) -> Iterator[tuple[int, np.ndarray, tuple[int, int]]]:
    """Every readable image, in order: its index, the pixels to store, and its original (H, W)."""
    batches = [range(first, min(first + AT_ONCE, len(images))) for first in range(0, len(images), AT_ONCE)]
    for index, shapes, sizes, flat in run_reader(_Preparer(images, prepare), batches, workers, torch.device("cpu")):
        start = 0
        for i, (h, w), size in zip(index, shapes, sizes, strict=True):
            yield i, flat[start : start + h * w * 3].numpy().reshape(h, w, 3), size
            start += h * w * 3


class _Preparer(Dataset[Any]):
    def __init__(self, images: ImageSet, prepare: Prepare) -> None:
        self.images, self.prepare = images, prepare

    def __getitem__(self, batch: range) -> tuple[list[int], list[tuple[int, int]], list[tuple[int, int]], torch.Tensor]:
        found: list[tuple[int, np.ndarray, tuple[int, int]]] = []
        for i in batch:
            reading(i)
            try:
                image = self.images.image(i)
            except UserError:
                continue  # read again, and reported, when a batch needs it
            found.append((i, self.prepare(image), (image.shape[0], image.shape[1])))
        flat = [pixels.reshape(-1) for _, pixels, _ in found]
        shapes = [(pixels.shape[0], pixels.shape[1]) for _, pixels, _ in found]
        sizes = [size for _, _, size in found]
        return [i for i, _, _ in found], shapes, sizes, torch.from_numpy(np.concatenate([np.empty(0, np.uint8), *flat]))
