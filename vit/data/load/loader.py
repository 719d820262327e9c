"""Batches on the device from a reader, in order, prefetched by workers. Does not depend on targets: see `reader`."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from vit.data.load.reader import B, Reader, Step
from vit.data.load.sampling import EvalBatches, TrainBatches
from vit.data.load.workers import require_room, run_reader
from vit.errors import UserError, shown

if TYPE_CHECKING:
    from vit.data.load.pixel_cache import PixelCache

# Training stops if a larger share of the files is unreadable; one unreadable file is always allowed.
BAD_SHARE = 0.01


@dataclass(frozen=True)
class LoaderOptions:
    """Options of the loaders.

    batch_size: of all ranks together in training, of one batch in evaluation. epochs, start_step: for training.
    workers: processes that decode; 0 for none. cache: stores decoded and resized images.
    strict: evaluation also fails if more than BAD_SHARE of the images cannot be read.
    """

    batch_size: int
    epochs: int = 1
    start_step: int = 0
    workers: int = 0
    rank: int = 0
    world: int = 1
    device: str | torch.device = "cpu"
    cache: PixelCache | None = None
    strict: bool = False


class Bad(NamedTuple):
    """A file that could not be read, and why."""

    name: str
    reason: str


class Steps(Sampler[Step]):
    """The draws of each batch, with the number of its step."""

    def __init__(self, draws: EvalBatches | TrainBatches) -> None:
        self.draws = draws

    def __len__(self) -> int:
        return len(self.draws)

    def __iter__(self) -> Iterator[Step]:
        steps = self.first + len(self.draws)
        for number, draws in enumerate(self.draws, self.first):
            yield Step(draws, number, steps)

    @property
    def first(self) -> int:
        return self.draws.start_step if isinstance(self.draws, TrainBatches) else 0


class Loader(Generic[B]):
    """Iterates over the batches of a reader. `bad` lists the unreadable files met so far.

    draws: the images of each batch. log: receives the reader's summary after the first epoch.

    Raises UserError while iterating if more than `bad_limit` files cannot be read.
    """

    def __init__(
        self,
        reader: Reader[B],
        draws: EvalBatches | TrainBatches,
        options: LoaderOptions,
        *,
        bad_limit: float = float("inf"),
        log: Callable[[str], object] | None = None,
    ) -> None:
        self.reader, self.draws, self.options = reader, draws, options
        self.device = torch.device(options.device)
        self.bad: list[Bad] = []
        self._bad_indices: set[int] = set()
        self._bad_limit, self._log = bad_limit, log
        require_room(options.workers, draws.batch_size, reader.preprocess.size)
        reader.warm_up()

    @property
    def images(self) -> Any:
        return self.reader.images

    def __len__(self) -> int:
        return len(self.draws)

    def starting_at(self, step: int) -> Loader[B]:
        """The same batches, starting at another step of the run; both share `bad`."""
        assert isinstance(self.draws, TrainBatches)
        other = copy.copy(self)
        other.draws = self.draws.starting_at(step)
        return other

    def __iter__(self) -> Iterator[B]:
        steps, rank = Steps(self.draws), self.options.rank
        epoch = self.draws.steps_per_epoch if isinstance(self.draws, TrainBatches) else len(self.draws)
        counts: Counter[str] = Counter()
        read = run_reader(self.reader, steps, self.options.workers, self.device)
        for number, shipped in enumerate(read, steps.first):
            self._collect(shipped.bad)
            counts.update(shipped.counts)
            if number - steps.first + 1 == epoch and self._log is not None and (line := self.reader.summary(counts)):
                self._log(line)
            if len(shipped.index):
                yield self.reader.batch(shipped, (rank, number), self.device)

    def _collect(self, bad: list[tuple[int, str]]) -> None:
        for index, reason in bad:
            if index not in self._bad_indices:
                self._bad_indices.add(index)
                self.bad.append(Bad(self.images.name(index), reason))
        if len(self.bad) > self._bad_limit:
            raise UserError(
                f"{len(self.bad)} of {len(self.images)} training images {self.reader.unusable}, more than "
                f"{BAD_SHARE:.0%}: {shown([item.name for item in self.bad])}. Replace or remove them. "
                f"The first: {self.bad[0].reason}"
            )


def train_loader(
    reader: Reader[B],
    options: LoaderOptions,
    *,
    weights: np.ndarray | None = None,
    repeats: np.ndarray | None = None,
    log: Callable[[str], object] | None = None,
) -> Loader[B]:
    """All batches of a run from `options.start_step` on; `len()` is the number of remaining steps.

    Samples are a pure function of (seed, epoch, index), for any number of workers and ranks. Unreadable images are left
    out of their batch and listed in `.bad`.

    weights: float [n], relative sampling weight of each image (`vit.data.load.sampling.balanced_weights`).
    repeats: float [n], how often each image occurs in an epoch (`vit.data.load.sampling.repeat_factors`).
    Without both, every image occurs once per epoch.

    Raises UserError while iterating if more than BAD_SHARE of the images cannot be read.
    """
    if options.cache is not None:
        reader = reader.cached(options.cache)
    n = len(reader.images)
    batches = TrainBatches(
        n,
        options.batch_size,
        options.epochs,
        seed=reader.seed,
        rank=options.rank,
        world=options.world,
        weights=weights,
        repeats=repeats,
    )
    return Loader(reader, batches.starting_at(options.start_step), options, bad_limit=_bad_limit(n), log=log)


def eval_loader(reader: Reader[B], options: LoaderOptions) -> Loader[B]:
    """Every image once, in order; rank r takes every `world`-th batch from r, without padding.

    Unreadable images are left out, never replaced, and listed in `.bad`: the number of evaluated images plus `len(bad)`
    is the size of the set.
    """
    if options.cache is not None:
        reader = reader.cached(options.cache)
    n = len(reader.images)
    batches = EvalBatches(n, options.batch_size, rank=options.rank, world=options.world)
    return Loader(reader, batches, options, bad_limit=_bad_limit(n) if options.strict else float("inf"))


def _bad_limit(images: int) -> float:
    return max(1, BAD_SHARE * images)
