"""A linear probe: what a frozen encoder gives of an image never changes, so the head is trained on features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vit.model.classifier import Classifier


class HeadOnly(nn.Module):
    """The head of a model, on pooled features: [B, D] -> logits [B, K]. Its parameters are the model's own, under the
    same names."""

    def __init__(self, model: Classifier):
        super().__init__()
        self.head_drop, self.head = model.head_drop, model.head

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.head_drop(features))


def trains_head_only(model: nn.Module) -> bool:
    return all(name.startswith("head.") for name, p in model.named_parameters() if p.requires_grad)


def pooled(model: Classifier, amp: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    """images float32 [B, C, H, W] -> what `model`'s head sees of them in evaluation, [B, D], in the precision of the
    training loop. Leaves the model in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device

    def forward(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
            return model.pool(model.forward_features(images))

    return forward
