"""What a training set looks like, from which a task's `settle.py` chooses what a recipe leaves open."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vit.data.survey import survey

MOST_WORKERS = 8
"""More processes than these are seldom needed to decode as fast as one device trains."""


@dataclass(frozen=True)
class Facts:
    """Sizes in pixels, statistics of pixels in 0..1 per channel."""

    images: int
    classes: int
    size: tuple[int, int]
    """Median (H, W)."""
    gray: bool
    """No color in any of the images looked at."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def facts_of(data: Any) -> Facts:
    """The facts of a data set's training images."""
    return Facts(len(data.train), len(data.classes), *survey(data.train))


def cores() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows know no such share
        return os.cpu_count() or 1


def inverse_frequency(counts: Tensor) -> Tensor:
    """Class weights [K] in proportion to 1 / count, with mean 1 over the images; classes without images get 0."""
    counts = counts.float()
    weights = counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))
    return weights * (counts > 0)
