"""Detection as a `Task` for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vit.detector import Detector
from vit.detector.output import Predictions
from vit.tasks.detection.loss import DetectionLoss
from vit.tasks.detection.metrics import DetectionMetrics


class Detection:
    """Detection of boxes of K classes in images [B, 3, H, W] of `input_size` (H, W)."""

    def __init__(self, model: Detector, classes: Sequence[str], loss: DetectionLoss, input_size: tuple[int, int]):
        self.model: nn.Module = model
        self.classes, self.loss, self.input_size = tuple(classes), loss, input_size
        # A batch without objects has no denoising queries, so that their parameters get no gradient.
        self.score, self.least, self.steady = "map", 1.0, False
        self._groups = model.config.groups

    def losses(self, images: Tensor, targets: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        targets = self.loss.wanted(targets, images.device)
        return self.loss(self.model(images, targets), targets)

    def amount(self, targets: Sequence[dict[str, Any]]) -> Tensor:
        return self.loss.amount(targets, self._groups, next(self.model.parameters()).device)

    def predict(self, images: Tensor) -> Predictions:
        return self.model(images).last

    def metrics(self) -> DetectionMetrics:
        return DetectionMetrics(self.classes, self.input_size)

    def kept(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights

    def uncertainty(self, numbers: dict[str, Any]) -> float:
        """0: mean AP has no simple standard error."""
        return 0.0
