"""What a run is made from, what its task has built for it, and the parts that the loop is handed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from vit.data.load.loader import LoaderOptions
from vit.data.load.pixel_cache import PixelCache
from vit.images.draw import Mark
from vit.images.preprocess import Preprocess
from vit.optim.optimizers import Ema
from vit.optim.schedule import Loop
from vit.predict.progress import progress
from vit.processes.world import ALONE, World
from vit.tasks.facts import Facts
from vit.tasks.task import Task


@dataclass
class Run:
    """The settled recipe, the data, and where the run computes."""

    recipe: Any
    data: Any
    facts: Facts
    device: torch.device
    world: World = ALONE
    start: Any = None
    """What the task's `build.begin` knew before there was a model: the weights that the run starts from."""
    step: int = 0
    """The step that the run goes on from; 0 for a new one."""
    resumed: bool = False
    """Whether it goes on from a checkpoint."""
    caches: bool = False
    """Whether images are kept as `recipe.cache` says; a trial of some steps keeps none."""

    def loading(self, batch_size: int, *, shared: bool, cache: PixelCache | None = None) -> LoaderOptions:
        """How batches are loaded. shared: each process has its part of them."""
        rank, size = (self.world.rank, self.world.size) if shared else (0, 1)
        workers = self.recipe.workers
        return LoaderOptions(batch_size, workers=workers, rank=rank, world=size, device=self.device, cache=cache)

    def cache(self) -> PixelCache | None:
        """What decoded and resized images are kept in; None for nothing."""
        recipe = self.recipe
        if not self.caches or recipe.cache == "none":
            return None
        return PixelCache(recipe.cache, recipe.cache_gb, workers=recipe.workers, log=print, ticker=progress)


@dataclass
class Built:
    """A model to train and how its images are prepared."""

    model: nn.Module
    preprocess: Preprocess
    name: str
    """What the user calls the model."""
    notes: list[str] = field(default_factory=list)
    """Lines for the user."""


class Seen(NamedTuple):
    """One training image as the model sees it, for `vitral data show`."""

    pixels: np.ndarray
    """uint8 [h, w, 3]"""
    text: str
    marks: list[Mark]


class Batches(Iterable[Any], Sized, Protocol):
    """Batches with `.images` float32 [B, 3, H, W], `.targets` and `.index`; `len` is the number still to come."""

    bad: list[Any]
    """The images met so far that could not be read."""

    def starting_at(self, step: int) -> Batches:
        """The same batches from another step of the run on."""
        ...


@dataclass
class Parts:
    """What the loop trains, on what, and how."""

    task: Task
    batches: Batches
    optimizers: list[Optimizer]
    loop: Loop
    validation: Callable[[], Iterable[Any]] | None = None
    """The batches that weights are judged by."""
    ema: Ema | None = None
    plain: Callable[[], Iterable[Any]] | None = None
    """Training images without augmentation: the statistics of batch norms are taken over them whenever weights are
    judged and kept."""
    watch: Callable[[Any, list[int], int], object] | None = None
    """Is shown the metrics of every evaluation, the index of its images, and the epoch that it ends."""
