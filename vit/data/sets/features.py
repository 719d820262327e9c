"""Batches of precomputed features in place of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from vit.data.load.label_reader import Batch
from vit.data.load.loader import Bad, Loader


@dataclass(frozen=True)
class Features:
    """An encoder's features of a split, on the CPU: values float32 [n, D] of the n readable images, their targets, and
    index int64 [n], their rows in the split."""

    values: torch.Tensor
    targets: torch.Tensor
    index: torch.Tensor
    bad: list[Bad]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        loader: Loader[Batch],
        encode: Callable[[torch.Tensor], torch.Tensor],
        tick: Callable[[int], None] | None = None,
    ) -> Features:
        """Run `encode` (images float32 [B, 3, H, W] -> [B, D]) on every batch of an `eval_loader`.

        `tick`, if given, is called with the number of images processed so far.
        """
        values, index, done = torch.empty(0, 0), torch.empty(len(loader.images), dtype=torch.int64), 0
        targets = torch.from_numpy(loader.images.targets)
        for batch in loader:
            found = encode(batch.images).float().cpu()
            if not done:  # one tensor for all: concatenating batches would need twice the memory
                values = torch.empty(len(index), found.shape[1])
            rows = slice(done, done + len(found))
            values[rows], index[rows] = found, batch.index
            done = rows.stop
            if tick is not None:
                tick(done)
        return cls(values[:done], targets[index[:done]], index[:done], loader.bad)

    def batches(self, size: int, device: torch.device, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield all features once, in order, in batches of `size` on the device. Rank r takes every `world`-th batch,
        starting at r."""
        for first in range(rank * size, len(self.index), world * size):
            rows = slice(first, first + size)
            yield Batch(self.values[rows].to(device), self.targets[rows].to(device), self.index[rows])


class FeatureBatches:
    """The batches of a `train_loader` in the same order, with features in place of images.

    `features` cover all its images. Unreadable images are left out of their batch; a batch with none left gets the next
    readable image of the set, as in the loader.
    """

    def __init__(self, loader: Loader[Batch], features: Features) -> None:
        self.bad = features.bad
        self._loader = loader
        self._features = features
        self._row = torch.full((len(loader.images),), -1)
        self._row[features.index] = torch.arange(len(features.index))

    def __len__(self) -> int:
        return len(self._loader)

    def starting_at(self, step: int) -> FeatureBatches:
        """The same batches, starting at another step of the run."""
        return FeatureBatches(self._loader.starting_at(step), self._features)

    def __iter__(self) -> Iterator[Batch]:
        features, device = self._features, self._loader.device
        for draws in self._loader.draws:
            rows = self._row[[draw.index for draw in draws]]
            rows = rows[rows >= 0]
            if not len(rows):
                following = self._row.roll(-draws[0].index)
                rows = following[following >= 0][:1]
            yield Batch(features.values[rows].to(device), features.targets[rows].to(device), features.index[rows])
