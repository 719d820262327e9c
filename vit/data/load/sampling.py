"""The order of images. Stateless: the order of an epoch is a pure function of (seed, epoch).

The seed and the step are enough to resume at any step, with any number of workers and ranks.
"""

from __future__ import annotations

import copy
import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np

from vit.errors import UserError


class Draw(NamedTuple):
    """One sample of a batch. `repeat` counts the earlier draws of the same index in this epoch.

    It gives the copies of a repeated image different augmentations, and is 0 without repetition.
    """

    epoch: int
    index: int
    repeat: int = 0


def derive_seed(*parts: int) -> int:
    """A 64-bit seed from integers, well mixed even for neighboring ones (BLAKE2b)."""
    packed = struct.pack(f"<{len(parts)}q", *parts)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


def epoch_order(n: int, seed: int, epoch: int, weights: np.ndarray | None = None) -> np.ndarray:
    """The indices of one epoch: int64 [n], a pure function of the arguments.

    A permutation of 0..n-1, or n draws with replacement in proportion to `weights` (float [n], not negative).
    """
    rng = np.random.Generator(np.random.PCG64(derive_seed(seed, epoch)))
    if weights is None:
        return rng.permutation(n)
    cumulative = np.cumsum(weights, dtype=np.float64)
    return np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right").astype(np.int64)


def balanced_weights(targets: np.ndarray, classes: int) -> np.ndarray:
    """Sampling weights, float64 [n], that draw every class that occurs equally often.

    targets: int64 [n], or multi-hot float32 [n, classes], where an image has the weight of its rarest label.
    """
    if targets.ndim == 2:
        inverse = 1 / np.maximum(targets.sum(axis=0), 1)
        weights = (targets * inverse).max(axis=1)
        # Images without a label are negatives: they get the average weight.
        return np.where(weights > 0, weights, weights[weights > 0].mean() if weights.any() else 1.0)
    counts = np.bincount(targets, minlength=classes)
    return 1 / counts[targets]


def repeat_factors(
    images: np.ndarray, labels: np.ndarray, n: int, classes: int, threshold: float | None = None
) -> np.ndarray:
    """How often to show each of n images in an epoch to oversample rare classes: float64 [n], at least 1.

    An image with classes C has the factor max over c in C of max(1, sqrt(t / f_c)), where f_c is the share of images
    with class c (repeat-factor sampling of LVIS, Gupta et al. 2019). images, labels: int64 [m], one row per box.
    threshold: t; None for the median of f_c, which repeats the rarer half of the classes.
    """
    pairs = np.unique(images * np.int64(classes) + labels)
    images, labels = pairs // classes, pairs % classes
    share = np.bincount(labels, minlength=classes) / max(1, n)
    if threshold is None:
        threshold = float(np.median(share[share > 0])) if len(pairs) else 0.0
    factor = np.sqrt(np.maximum(1, threshold / np.maximum(share, 1e-12)))
    repeats = np.ones(n)
    np.maximum.at(repeats, images, factor[labels])
    return repeats


def repeated_order(repeats: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The indices of one epoch, int64 [ceil(sum of repeats)], a pure function of the arguments. Index i occurs in
    proportion to repeats[i] on average, rounded up or down in any one epoch (systematic sampling)."""
    rng = np.random.Generator(np.random.PCG64(derive_seed(seed, epoch)))
    length = math.ceil(repeats.sum())
    shuffled = rng.permutation(len(repeats))
    ends = np.cumsum(repeats[shuffled]) * (length / repeats.sum())
    ends[-1] = length  # removes the rounding error of the sum
    counts = np.diff(np.floor(ends + rng.random()).astype(np.int64), prepend=0)
    return rng.permutation(np.repeat(shuffled, counts))


class TrainBatches:
    """The batches of a whole run for one rank; after `starting_at` a step, the remaining ones.

    A global batch, of `batch_size` images, is a consecutive slice of the epoch's order. Rank r takes every `world`-th
    image of it from r on, so that the global order does not depend on the number of ranks. The last, short batch of an
    epoch is dropped; a set smaller than the batch is one batch per epoch.
    weights: for `epoch_order`. repeats: for `repeated_order`, which makes an epoch longer than the set.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        epochs: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        weights: np.ndarray | None = None,
        repeats: np.ndarray | None = None,
    ) -> None:
        if n < 1:
            raise UserError("The training set is empty.")
        if batch_size < 1:
            raise UserError(f"The batch size must be at least 1, not {batch_size}.")
        if min(n, batch_size) < world:
            raise UserError(f"A batch of {min(n, batch_size)} images cannot be shared by {world} processes.")
        self.n = n
        self.batch_size = min(batch_size, n)
        self.steps_per_epoch = (n if repeats is None else math.ceil(repeats.sum())) // self.batch_size
        self.steps = epochs * self.steps_per_epoch
        self.seed = seed
        self.start_step = 0
        self.rank = rank
        self.world = world
        self.weights = weights
        self.repeats = repeats

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step)

    def starting_at(self, step: int) -> TrainBatches:
        """The same batches, starting at another step of the run."""
        other = copy.copy(self)
        other.start_step = step
        return other

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch = -1
        order = repeats = np.empty(0, np.int64)
        for step in range(self.start_step, self.steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                if self.repeats is not None:
                    order = repeated_order(self.repeats, self.seed, epoch)
                else:
                    order = epoch_order(self.n, self.seed, epoch, self.weights)
                again = self.weights is not None or self.repeats is not None
                repeats = _repeats(order) if again else np.zeros(self.n, np.int64)
            first = (step % self.steps_per_epoch) * self.batch_size
            mine = slice(first + self.rank, first + self.batch_size, self.world)
            yield [Draw(epoch, i, k) for i, k in zip(order[mine].tolist(), repeats[mine].tolist(), strict=True)]


class EvalBatches(Sequence[list[Draw]]):
    """Every image once, in order; rank r takes every `world`-th batch from r on, without padding. So each batch is one
    of a single process, with the same predictions to the last bit. Draws are made on demand, since a million would take
    more memory than the index."""

    def __init__(self, n: int, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        self.batch_size, self._n = batch_size, n
        self._firsts = range(rank * batch_size, n, world * batch_size)

    def __len__(self) -> int:
        return len(self._firsts)

    @overload
    def __getitem__(self, k: int) -> list[Draw]: ...
    @overload
    def __getitem__(self, k: slice) -> list[list[Draw]]: ...
    def __getitem__(self, k: int | slice) -> list[Draw] | list[list[Draw]]:
        if isinstance(k, slice):
            return [self[j] for j in range(*k.indices(len(self)))]
        if not 0 <= k < len(self):
            raise IndexError(k)
        first = self._firsts[k]
        return [Draw(0, i) for i in range(first, min(first + self.batch_size, self._n))]


def _repeats(order: np.ndarray) -> np.ndarray:
    """For each position, how often its index has occurred before: [5, 2, 5, 5] -> [0, 0, 1, 2]."""
    by_index = np.argsort(order, kind="stable")
    ranked = order[by_index]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    lengths = np.diff(np.r_[starts, len(ranked)])
    repeats = np.empty(len(order), np.int64)
    repeats[by_index] = np.arange(len(order)) - np.repeat(starts, lengths)
    return repeats
