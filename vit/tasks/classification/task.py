"""Classification as a `Task` for the engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vit.model.lora import merged
from vit.tasks.classification.loss import ClassificationLoss
from vit.tasks.classification.metrics import ClassificationMetrics


class Classification:
    """Classification of images [B, 3, H, W] into K classes, or, with multilabel, any number of them.

    The loop trains `model`, which may be only the head, on features; a checkpoint stores `whole`.
    """

    def __init__(self, model: nn.Module, classes: Sequence[str], loss: ClassificationLoss, *, lora_alpha: float = 16.0):
        self.model = self.whole = model
        self.classes, self.loss, self.lora_alpha = classes, loss, lora_alpha
        self.score = "map" if loss.multilabel else "top1"
        self.least, self.steady = 0.0, True

    def losses(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return self.loss(self.model(images), targets, self.model)

    def amount(self, targets: Tensor) -> Tensor:
        return self.loss.divisor(targets)

    def predict(self, images: Tensor) -> Tensor:
        return self.model(images)

    def metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics(self.classes, self.loss.multilabel)

    def kept(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The whole model's weights, with low-rank updates merged."""
        if self.model is not self.whole:
            weights = {**self.whole.state_dict(), **weights}
        return merged(weights, self.lora_alpha)

    def uncertainty(self, numbers: dict[str, Any]) -> float:
        """Standard error of top-1: sqrt(p (1 - p) / n). Mean AP has no such form: 0."""
        p, n = numbers.get("top1"), numbers.get("n")
        return math.sqrt(p * (1 - p) / n) if p is not None and n else 0.0
