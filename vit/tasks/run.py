"""The inputs of a run, what its task builds, and the parts of the training loop."""

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
    """The settled recipe, the data, and the device and processes of a run."""

    recipe: Any
    data: Any
    facts: Facts
    device: torch.device
    world: World = ALONE
    start: Any = None
    """The result of the task's `build.begin`: the weights that the run starts from."""
    step: int = 0
    """The step to continue from; 0 for a new run."""
    resumed: bool = False
    """Whether the run continues from a checkpoint."""
    caches: bool = False
    """Whether to cache images as `recipe.cache` says; a trial of a few steps caches none."""

    def loading(self, batch_size: int, *, shared: bool, cache: PixelCache | None = None) -> LoaderOptions:
        """Options of the loader. shared: each process loads its share of the batches."""
        rank, size = (self.world.rank, self.world.size) if shared else (0, 1)
        workers = self.recipe.workers
        return LoaderOptions(batch_size, workers=workers, rank=rank, world=size, device=self.device, cache=cache)

    def cache(self) -> PixelCache | None:
        """The cache of decoded and resized images; None without one."""
        recipe = self.recipe
        if not self.caches or recipe.cache == "none":
            return None
        return PixelCache(recipe.cache, recipe.cache_gb, workers=recipe.workers, log=print, ticker=progress)


@dataclass
class Built:
    """A model to train and its preprocessing."""

    model: nn.Module
    preprocess: Preprocess
    name: str
    """The model's name as the user typed it."""
    notes: list[str] = field(default_factory=list)
    """Notes for the user."""


class Seen(NamedTuple):
    """One training image as the model sees it, for `vitral data show`."""

    pixels: np.ndarray
    """uint8 [h, w, 3]"""
    text: str
    marks: list[Mark]


class Batches(Iterable[Any], Sized, Protocol):
    """Batches with `.images` float32 [B, 3, H, W], `.targets` and `.index`; `len` counts those still to come."""

    bad: list[Any]
    """Images so far that could not be read."""

    def starting_at(self, step: int) -> Batches:
        """The same batches, starting at another step of the run."""
        ...


@dataclass
class Parts:
    """What the training loop needs: model, data, optimizers, schedule."""

    task: Task
    batches: Batches
    optimizers: list[Optimizer]
    loop: Loop
    validation: Callable[[], Iterable[Any]] | None = None
    """The validation batches."""
    ema: Ema | None = None
    plain: Callable[[], Iterable[Any]] | None = None
    """Training images without augmentation, for the statistics of batch norms before each evaluation."""
    watch: Callable[[Any, list[int], int], object] | None = None
    """Called after every evaluation with its metrics, the index of its images, and the epoch."""
