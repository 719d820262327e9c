"""Classification losses: named, weighted terms whose sum is minimized."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClassificationLoss(nn.Module):
    """Cross-entropy for one class per image, binary cross-entropy for multi-label, and an optional L1 term.

    label_smoothing: Szegedy et al. 2016, section 7. class_weights [K]: factor on each class's terms.
    l1: weight of the sum of absolute values of the model's matrices.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        multilabel: bool = False,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        l1: float = 0.0,
    ):
        super().__init__()
        self.num_classes, self.multilabel = num_classes, multilabel
        self.label_smoothing, self.l1 = label_smoothing, l1
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.class_weights: Tensor | None

    def forward(self, logits: Tensor, targets: Tensor, model: nn.Module | None = None) -> dict[str, Tensor]:
        """logits [B, K]; targets int64 [B], or float [B, K] when mixed or multi-label."""
        logits = logits.float()
        if self.multilabel:
            smooth = self.label_smoothing
            targets = targets * (1 - smooth) + smooth / 2 if smooth else targets
            terms = {"bce": F.binary_cross_entropy_with_logits(logits, targets, weight=self.class_weights)}
        else:
            loss = F.cross_entropy(logits, targets, weight=self.class_weights, label_smoothing=self.label_smoothing)
            terms = {"cross_entropy": loss}
        if self.l1 and model is not None:
            matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
            terms["l1"] = self.l1 * sum((p.abs().sum() for p in matrices), start=logits.new_zeros(()))
        return terms

    def divisor(self, targets: Tensor) -> Tensor:
        """The divisor of the sum over images: their number, or the sum of their class weights."""
        if self.class_weights is not None and targets.ndim == 1:
            return self.class_weights[targets].sum()
        return torch.tensor(float(len(targets)), device=targets.device)
