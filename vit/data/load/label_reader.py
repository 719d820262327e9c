"""Batches of images with one target each: a class, several labels, or a number."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch

from vit.data.augment.images import Pipeline
from vit.data.load.reader import Reader, Sample, Shipped, Step
from vit.data.load.sampling import Draw, derive_seed
from vit.data.sets.imageset import CACHE_BYTES, ImageSet
from vit.images.preprocess import Preprocess

if TYPE_CHECKING:
    from vit.data.load.pixel_cache import PixelCache

Mix = Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
"""(images, targets, seed) -> (images, targets), as `vit.data.augment.batches.Mix`."""


class Batch(NamedTuple):
    """images float32 [B, 3, H, W], normalized; targets int64 [B], float32 [B, K] or float32 [B]; index int64 [B].

    index: rows in the ImageSet, on the CPU; images and targets are on the device.
    """

    images: torch.Tensor
    targets: torch.Tensor
    index: torch.Tensor


class LabelReader(Reader[Batch]):
    """Targets are rows of `ImageSet.targets`. pipeline: training augmentation; None for evaluation. mix: applied to
    whole batches on the device."""

    def __init__(
        self,
        images: ImageSet,
        preprocess: Preprocess,
        pipeline: Pipeline | None = None,
        *,
        seed: int = 0,
        mix: Mix | None = None,
    ) -> None:
        super().__init__(images, preprocess, training=pipeline is not None, seed=seed)
        self.pipeline, self.mix = pipeline, mix
        self._resized: dict[int, np.ndarray] | None = None

    def warm_up(self) -> None:
        if self.images.cache():
            self.keep_resized()

    def keep_resized(self) -> None:
        """Resize each image once, not once per epoch: for images in memory that are resized before augmentation.
        Resizing took a third of the time of a batch of digits."""
        height, width = self.preprocess.size
        resized_first = self.pipeline is None or self.pipeline.augment.crop is None
        idempotent = self.preprocess.resize != "crop" or self.preprocess.crop == 1  # resizing twice changes nothing
        if resized_first and idempotent and len(self.images) * height * width * 3 <= CACHE_BYTES:
            self._resized = {}

    def cached(self, cache: PixelCache) -> Self:
        other = copy.copy(self)
        other.images, other.preprocess, kept = cache.of(self.images, self.preprocess, self.pipeline)
        other.pipeline = kept or self.pipeline
        return other

    def sample(self, draw: Draw, step: Step) -> Sample:
        if self._resized is not None:
            if draw.index not in self._resized:
                self._resized[draw.index] = self.preprocess.pixels(self.images.image(draw.index))
            image = self._resized[draw.index]
            return Sample(image if self.pipeline is None else self.pipeline(image, derive_seed(self.seed, *draw)))
        if self.pipeline is None:
            return Sample(self.preprocess.pixels(self.images.image(draw.index)))
        return Sample(self.pipeline.read(partial(self.images.view, draw.index), derive_seed(self.seed, *draw)))

    def batch(self, shipped: Shipped, key: tuple[int, int], device: torch.device) -> Batch:
        # Normalized after the copy, so that a quarter of the bytes is transferred.
        images = self.preprocess.tensor(shipped.pixels.to(device, non_blocking=True))
        targets = torch.from_numpy(self.images.targets)[shipped.index].to(device, non_blocking=True)
        if self.mix is not None:
            images, targets = self.mix(images, targets, derive_seed(self.seed, *key))
        return Batch(images, targets, shipped.index)
