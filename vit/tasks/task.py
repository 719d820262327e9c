"""A Task is what the engine knows of a model: how to get losses, outputs and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class Metrics(Protocol):
    def update(self, outputs: Any, targets: Any, /) -> Any: ...
    def state(self) -> Any:
        """All that was seen, to be sent to another process."""
        ...

    def merged(self, states: Any, order: Sequence[int], /) -> Any:
        """New metrics with the images of all `states`, one after another and then in this order."""
        ...

    def scalars(self) -> dict[str, Any]:
        """Numbers by name, None where undefined; cheap enough for every epoch."""
        ...

    def compute(self) -> dict[str, Any]:
        """Everything: per class, confusion, intervals."""
        ...


class Task(Protocol):
    model: nn.Module
    score: str
    """The metric that chooses the best checkpoint; higher is better."""
    least: float
    """See `amount`."""
    steady: bool
    """Every parameter that is trained has a gradient after every batch."""

    def losses(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
        """Named, already weighted terms for one batch."""
        ...

    def amount(self, targets: Any) -> Tensor:
        """What the sums over these targets are divided by in `losses` (the number of images, of boxes, ...), where it
        is not below `least`: a batch that is taken in parts, or by several processes, is the sum of the parts' losses,
        each times its amount over that of the whole."""
        ...

    def predict(self, images: Tensor) -> Any:
        """What `Metrics.update` takes; runs in eval mode without gradients."""
        ...

    def metrics(self) -> Metrics: ...

    def kept(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a checkpoint holds, from weights of `model`."""
        ...

    def uncertainty(self, numbers: dict[str, Any]) -> float:
        """Standard error of the score in `Metrics.scalars()`; 0 where it is unknown."""
        ...
