"""The work of one step in a worker: decode and augment its images, and ship them as uint8.

The loader knows only `Reader`. Each kind of target is a subclass with two methods: `sample` makes one image and its
target in a worker, `batch` makes the model's input from what the workers shipped.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from vit.data.load.sampling import Draw
from vit.data.load.workers import reading
from vit.errors import UserError
from vit.images.preprocess import Preprocess

if TYPE_CHECKING:
    from vit.data.load.pixel_cache import PixelCache

B = TypeVar("B")
"""A batch."""


class Step(NamedTuple):
    """The images of one batch."""

    draws: list[Draw]
    number: int
    """Number of the step within the run, from 0."""
    steps: int
    """Number of steps of the whole run."""


class Sample(NamedTuple):
    """One image of a batch."""

    pixels: np.ndarray
    """uint8 [h, w, 3], the same size for all images of a step."""
    target: Any = None
    """The part of the target that the image's index does not determine."""
    bad: Sequence[tuple[int, str]] = ()
    """Images to mix in that could not be read: (index, reason)."""
    counts: Mapping[str, int] = {}
    """Numbers that the loader adds up over an epoch, for `Reader.summary`."""


class Shipped(NamedTuple):
    """What a worker ships: pixels uint8 [b, h, w, 3], index int64 [b], one target per image, (index, reason) of the
    unreadable images, and the summed counts of the samples."""

    pixels: torch.Tensor
    index: torch.Tensor
    targets: list[Any]
    bad: list[tuple[int, str]]
    counts: dict[str, int]


class Reader(Dataset[Shipped], Generic[B]):
    """images: the set; preprocess: of the model. training: if no image of a step can be read, the next readable one of
    the set replaces it. seed: of the order, the augmentation and the mixing."""

    unusable = "cannot be decoded"
    """How the loader's error describes the images in `Shipped.bad`."""

    def __init__(self, images: Any, preprocess: Preprocess, *, training: bool, seed: int) -> None:
        self.images, self.preprocess, self.training, self.seed = images, preprocess, training, seed

    @abstractmethod
    def sample(self, draw: Draw, step: Step) -> Sample:
        """One image: a pure function of the arguments. Raises UserError if it cannot be read."""

    @abstractmethod
    def batch(self, shipped: Shipped, key: tuple[int, int], device: torch.device) -> B:
        """The model's input. key: (rank, step), the seed of the batch's random numbers."""

    def warm_up(self) -> None:
        """Called once before the workers start, to prepare what they share."""

    def cached(self, cache: PixelCache) -> Self:
        """The same reader with images from the cache; itself if it cannot use one."""
        return self

    def summary(self, counts: Mapping[str, int]) -> str:
        """A line for the user about the samples of an epoch; "" for none."""
        return ""

    def __getitem__(self, step: Step) -> Shipped:
        samples: list[Sample] = []
        index: list[int] = []
        bad: list[tuple[int, str]] = []

        def read(draw: Draw) -> None:
            reading(draw.index)
            try:
                sample = self.sample(draw, step)
            except UserError as error:
                bad.append((draw.index, str(error)))
                return
            samples.append(sample)
            index.append(draw.index)
            bad.extend(sample.bad)

        for draw in step.draws:
            read(draw)
        if not samples and self.training:
            # A training step needs at least one image: the next readable one of the set replaces it.
            first = step.draws[0]
            for offset in range(1, min(100, len(self.images))):
                read(first._replace(index=(first.index + offset) % len(self.images)))
                if samples:
                    break
        pixels = np.stack([sample.pixels for sample in samples]) if samples else np.empty((0, 1, 1, 3), np.uint8)
        counts: Counter[str] = Counter()
        for sample in samples:
            counts.update(sample.counts)
        targets = [sample.target for sample in samples if sample.target is not None]
        return Shipped(torch.from_numpy(pixels), torch.tensor(index, dtype=torch.int64), targets, bad, dict(counts))
