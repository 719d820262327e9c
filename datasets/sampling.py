"""Which image comes when. Stateless: the order of an epoch is a pure function of (seed, epoch).

Nothing here is advanced or saved. To resume at any step, with any number of workers and ranks, it is
enough to know the seed and the step.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from vit.errors import UserError


class Draw(NamedTuple):
    """One sample of a batch. `repeat` counts the earlier draws of the same index in this epoch.

    It is 0 unless sampling is weighted; there, it gives the copies of a rare image different augmentations.
    """

    epoch: int
    index: int
    repeat: int = 0


def derive_seed(*parts: int) -> int:
    """A 64-bit seed from integers, equally well mixed for neighbouring ones (BLAKE2b)."""
    packed = struct.pack(f"<{len(parts)}q", *parts)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


def epoch_order(n: int, seed: int, epoch: int, weights: np.ndarray | None = None) -> np.ndarray:
    """The indices of one epoch: int64 [n], a pure function of the arguments.

    A permutation of 0..n-1, or, with `weights` (float [n], not negative), n draws with replacement in
    proportion to them.
    """
    rng = np.random.Generator(np.random.PCG64(derive_seed(seed, epoch)))
    if weights is None:
        return rng.permutation(n)
    cumulative = np.cumsum(weights, dtype=np.float64)
    return np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right").astype(np.int64)


def balanced_weights(targets: np.ndarray, classes: int) -> np.ndarray:
    """Weights float64 [n] under which every class that occurs is drawn equally often.

    targets: int64 [n], or multi-hot float32 [n, classes], where an image has the weight of its rarest label.
    """
    if targets.ndim == 2:
        inverse = 1 / np.maximum(targets.sum(axis=0), 1)
        weights = (targets * inverse).max(axis=1)
        # Images without any label are negatives: they keep the average weight.
        return np.where(weights > 0, weights, weights[weights > 0].mean() if weights.any() else 1.0)
    counts = np.bincount(targets, minlength=classes)
    return 1 / counts[targets]


class TrainBatches(Sampler[list[Draw]]):
    """The batches of a whole run, from `start_step` on, for one rank.

    The global batch is a consecutive slice of the epoch's order and rank r takes every `world`-th of it
    from r, so that the global order does not depend on the number of ranks. `batch_size` is the global one.
    A last, short batch of an epoch is left out; a set smaller than the batch is one batch per epoch.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        epochs: int,
        *,
        seed: int = 0,
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
        weights: np.ndarray | None = None,
    ) -> None:
        if n < 1:
            raise UserError("The training set is empty.")
        if batch_size < 1:
            raise UserError(f"The batch size must be at least 1, not {batch_size}.")
        if min(n, batch_size) < world:
            raise UserError(f"A batch of {min(n, batch_size)} images cannot be shared by {world} processes.")
        self.n = n
        self.batch_size = min(batch_size, n)
        self.steps_per_epoch = n // self.batch_size
        self.steps = epochs * self.steps_per_epoch
        self.seed = seed
        self.start_step = start_step
        self.rank = rank
        self.world = world
        self.weights = weights

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch = -1
        order = repeats = np.empty(0, np.int64)
        for step in range(self.start_step, self.steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                order = epoch_order(self.n, self.seed, epoch, self.weights)
                repeats = _repeats(order) if self.weights is not None else np.zeros(self.n, np.int64)
            first = (step % self.steps_per_epoch) * self.batch_size
            mine = slice(first + self.rank, first + self.batch_size, self.world)
            yield [
                Draw(epoch, i, k) for i, k in zip(order[mine].tolist(), repeats[mine].tolist(), strict=True)
            ]


def _repeats(order: np.ndarray) -> np.ndarray:
    """For each position, how often its index has occurred before: [5, 2, 5, 5] -> [0, 0, 1, 2]."""
    by_index = np.argsort(order, kind="stable")
    ranked = order[by_index]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    lengths = np.diff(np.r_[starts, len(ranked)])
    repeats = np.empty(len(order), np.int64)
    repeats[by_index] = np.arange(len(order)) - np.repeat(starts, lengths)
    return repeats
