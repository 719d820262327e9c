"""From an ImageSet to batches on the device. Workers ship uint8; normalising is done once per whole batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from vit.data.augment.images import Pipeline
from vit.data.load.sampling import Draw, EvalBatches, TrainBatches, balanced_weights, derive_seed
from vit.data.load.workers import reading, require_room, run_reader
from vit.data.sets.imageset import CACHE_BYTES, ImageSet
from vit.errors import UserError, shown
from vit.images.preprocess import Preprocess

if TYPE_CHECKING:
    from vit.data.load.pixel_cache import PixelCache

# A training set with a larger share of unreadable files is not trained on (but one file is always forgiven).
BAD_SHARE = 0.01

Mix = Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]


class Batch(NamedTuple):
    """images float32 [B, 3, H, W], normalised; targets int64 [B] or float32 [B, K]; index int64 [B].

    `index` are the rows in the ImageSet, on the CPU; the others are on the device.
    """

    images: torch.Tensor
    targets: torch.Tensor
    index: torch.Tensor


class Bad(NamedTuple):
    """A file that could not be decoded, and why."""

    name: str
    reason: str


class _Pixels(NamedTuple):
    """What a worker ships: pixels uint8 [b, h, w, 3], index int64 [b], and the indices that failed."""

    pixels: torch.Tensor
    index: torch.Tensor
    bad: list[tuple[int, str]]


class _Reader(Dataset[_Pixels]):
    """Turns the list of draws of one batch into pixels. Runs in the workers."""

    def __init__(self, images: ImageSet, preprocess: Preprocess, pipeline: Pipeline | None, seed: int) -> None:
        self.images = images
        self.preprocess = preprocess
        self.pipeline = pipeline
        self.seed = seed
        self._resized: dict[int, np.ndarray] | None = None

    def keep_resized(self) -> None:
        """Resize every image once, not once an epoch: for images in memory whose augmentation comes after the resizing.
        That was a third of the time of a batch of digits."""
        height, width = self.preprocess.size
        first = self.pipeline is None or self.pipeline.augment.crop is None
        again = self.preprocess.resize != "crop" or self.preprocess.crop == 1  # resizing twice changes nothing
        if first and again and len(self.images) * height * width * 3 <= CACHE_BYTES:
            self._resized = {}

    def __getitem__(self, draws: Sequence[Draw]) -> _Pixels:
        pixels: list[np.ndarray] = []
        index: list[int] = []
        bad: list[tuple[int, str]] = []
        for draw in draws:
            self._read(draw, pixels, index, bad)
        if not pixels and self.pipeline is not None:
            # A training step needs at least one image: the next readable ones of the set take the place.
            for offset in range(1, min(100, len(self.images))):
                following = (draws[0].index + offset) % len(self.images)
                self._read(draws[0]._replace(index=following), pixels, index, bad)
                if pixels:
                    break
        height, width = self.preprocess.size
        stacked = np.stack(pixels) if pixels else np.empty((0, height, width, 3), np.uint8)
        return _Pixels(torch.from_numpy(stacked), torch.tensor(index, dtype=torch.int64), bad)

    def _read(self, draw: Draw, pixels: list[np.ndarray], index: list[int], bad: list[tuple[int, str]]) -> None:
        reading(draw.index)
        try:
            pixels.append(self._sample(draw))
        except UserError as error:
            bad.append((draw.index, str(error)))
            return
        index.append(draw.index)

    def _sample(self, draw: Draw) -> np.ndarray:
        if self._resized is not None:
            if draw.index not in self._resized:
                self._resized[draw.index] = self.preprocess.pixels(self.images.image(draw.index))
            image = self._resized[draw.index]
            return image if self.pipeline is None else self.pipeline(image, derive_seed(self.seed, *draw))
        if self.pipeline is None:
            return self.preprocess.pixels(self.images.image(draw.index))
        return self.pipeline.read(partial(self.images.view, draw.index), derive_seed(self.seed, *draw))


class Loader:
    """Iterates over `Batch`. `bad` lists the files met so far that could not be decoded.

    `draws` says which images each batch is of, `targets` is those of the whole set.
    """

    def __init__(
        self,
        images: ImageSet,
        reader: _Reader,
        batches: EvalBatches | TrainBatches,
        *,
        workers: int,
        device: torch.device,
        start_step: int = 0,
        mix: Mix | None = None,
        mix_seed: tuple[int, ...] = (),
        bad_limit: float = float("inf"),
    ) -> None:
        self.bad: list[Bad] = []
        self._images = images
        self._reader = reader
        self.draws = batches
        self._workers = workers
        self.device = device
        self._start_step = start_step
        self._mix = mix
        self._mix_seed = mix_seed
        self._bad_limit = bad_limit
        self._bad_indices: set[int] = set()
        self.targets = torch.from_numpy(images.targets)
        require_room(workers, batches.batch_size, reader.preprocess.size)
        if images.cache():
            reader.keep_resized()

    def __len__(self) -> int:
        return len(self.draws)

    def starting_at(self, step: int) -> Loader:
        """The same batches from another step of the run on; `bad` is one list for both."""
        assert isinstance(self.draws, TrainBatches)
        other = copy.copy(self)
        other.draws, other._start_step = self.draws.starting_at(step), step
        return other

    def __iter__(self) -> Iterator[Batch]:
        for step, raw in enumerate(run_reader(self._reader, self.draws, self._workers, self.device), self._start_step):
            self._collect(raw.bad)
            if len(raw.index) == 0:
                continue
            # Normalising after the copy: the bus carries a quarter of the bytes.
            pixels = raw.pixels.to(self.device, non_blocking=True)
            images = self._reader.preprocess.tensor(pixels)
            targets = self.targets[raw.index].to(self.device, non_blocking=True)
            if self._mix is not None:
                images, targets = self._mix(images, targets, derive_seed(*self._mix_seed, step))
            yield Batch(images, targets, raw.index)

    def _collect(self, bad: list[tuple[int, str]]) -> None:
        for index, reason in bad:
            if index not in self._bad_indices:
                self._bad_indices.add(index)
                self.bad.append(Bad(self._images.name(index), reason))
        if len(self.bad) > self._bad_limit:
            raise UserError(
                f"{len(self.bad)} of {len(self._images)} training images cannot be decoded, more than "
                f"{BAD_SHARE:.0%}: {shown([item.name for item in self.bad])}. Replace or remove them. "
                f"The first: {self.bad[0].reason}"
            )


def train_loader(
    images: ImageSet,
    pipeline: Pipeline,
    preprocess: Preprocess,
    *,
    batch_size: int,
    epochs: int,
    seed: int = 0,
    start_step: int = 0,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    balanced: bool = False,
    mix: Mix | None = None,
    cache: PixelCache | None = None,
    device: str | torch.device = "cpu",
) -> Loader:
    """All batches of a run from `start_step` on; `len()` is the number of steps that remain.

    batch_size: of all ranks together. Samples are a pure function of (seed, epoch, index), whatever the
    number of workers and ranks. Images that cannot be decoded are left out of their batch and listed in
    `.bad`. cache: what decoded and resized images are kept in.

    Raises UserError, while iterating, when more than BAD_SHARE of the images cannot be decoded.
    """
    if cache is not None:
        images, preprocess, kept = cache.of(images, preprocess, pipeline)
        pipeline = kept or pipeline
    weights = balanced_weights(images.targets, len(images.classes)) if balanced else None
    batches = TrainBatches(
        len(images),
        batch_size,
        epochs,
        seed=seed,
        start_step=start_step,
        rank=rank,
        world=world,
        weights=weights,
    )
    return Loader(
        images,
        _Reader(images, preprocess, pipeline, seed),
        batches,
        workers=workers,
        device=torch.device(device),
        start_step=start_step,
        mix=mix,
        mix_seed=(seed, rank),
        bad_limit=_bad_limit(images),
    )


def eval_loader(
    images: ImageSet,
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    cache: PixelCache | None = None,
    device: str | torch.device = "cpu",
    strict: bool = False,
) -> Loader:
    """Every image once, in order; rank r takes every `world`-th batch from r, without padding.

    Images that cannot be decoded are left out, never replaced, and listed in `.bad`: the number evaluated
    plus `len(bad)` is the size of the set. `strict`: raises UserError where `train_loader` does.
    """
    if cache is not None:
        images, preprocess, _ = cache.of(images, preprocess, None)
    batches = EvalBatches(len(images), batch_size, rank=rank, world=world)
    reader = _Reader(images, preprocess, None, seed=0)
    limit = _bad_limit(images) if strict else float("inf")
    return Loader(images, reader, batches, workers=workers, device=torch.device(device), bad_limit=limit)


def _bad_limit(images: ImageSet) -> float:
    return max(1, BAD_SHARE * len(images))
