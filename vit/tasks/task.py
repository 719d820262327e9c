"""The interface between the engine and a model: losses, outputs and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class Metrics(Protocol):
    def update(self, outputs: Any, targets: Any, /) -> Any: ...
    def state(self) -> Any:
        """Everything collected so far, to send to another process."""
        ...

    def merged(self, states: Any, order: Sequence[int], /) -> Any:
        """New metrics with the images of all `states`, concatenated and then permuted by `order`."""
        ...

    def scalars(self) -> dict[str, Any]:
        """Numbers by name, None if undefined; cheap enough for every epoch."""
        ...

    def compute(self) -> dict[str, Any]:
        """All metrics: per class, confusion, intervals."""
        ...


class Task(Protocol):
    model: nn.Module
    score: str
    """The metric that selects the best checkpoint; higher is better."""
    least: float
    """The minimum divisor; see `amount`."""
    steady: bool
    """Whether every trainable parameter gets a gradient from every batch."""

    def losses(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
        """Named, weighted terms for one batch."""
        ...

    def amount(self, targets: Any) -> Tensor:
        """The divisor of the sums in `losses` (the number of images, of boxes, ...), clamped to at least `least`.

        The loss of a batch that is split into parts, or over processes, is the sum of the parts' losses, each weighted
        by its amount over that of the whole."""
        ...

    def predict(self, images: Tensor) -> Any:
        """Outputs for `Metrics.update`; runs in eval mode without gradients."""
        ...

    def metrics(self) -> Metrics: ...

    def kept(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights that a checkpoint stores, from weights of `model`."""
        ...

    def uncertainty(self, numbers: dict[str, Any]) -> float:
        """Standard error of the score in `Metrics.scalars()`; 0 if unknown."""
        ...
