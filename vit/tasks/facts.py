"""Statistics of a training set, from which a task's `settle.py` chooses the open fields of a recipe."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vit.data.survey import survey

MOST_WORKERS = 8
"""More processes are seldom needed to decode as fast as one device trains."""


@dataclass(frozen=True)
class Facts:
    """Sizes are in pixels; mean and std are per channel, of pixels in 0..1."""

    images: int
    classes: int
    size: tuple[int, int]
    """Median (H, W)."""
    gray: bool
    """Whether no sampled image has color."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def facts_of(data: Any) -> Facts:
    """Survey the training images of a data set."""
    return Facts(len(data.train), len(data.classes), *survey(data.train))


def cores() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # missing on macOS and Windows
        return os.cpu_count() or 1


def inverse_frequency(counts: Tensor) -> Tensor:
    """Class weights [K] proportional to 1 / count, with mean 1 over the images; 0 for classes without images."""
    counts = counts.float()
    weights = counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))
    return weights * (counts > 0)
