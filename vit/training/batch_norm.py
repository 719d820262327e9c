"""Recompute the statistics of batch norms for the weights and the images of evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

IMAGES = 1024
"""Enough images: their mean is within 1/32 of a standard deviation, and each has many positions."""


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The trainable batch norms, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.track_running_stats
        and any(p.requires_grad for p in module.parameters())
    }


@torch.no_grad()
def with_statistics(model: nn.Module, weights: dict[str, Tensor], batches: Iterable[Any]) -> dict[str, Tensor]:
    """`weights` (a state dict of `model`) with the statistics of trainable batch norms recomputed over `batches`.

    `.images` are float32 [B, C, H, W], prepared as for prediction. The model's own weights are restored afterward.
    Training's running statistics come from augmented images (Touvron et al. 2019, section 4) and from weights that have
    changed since and are not the averaged ones (Izmailov et al. 2018, section 3.2).
    """
    norms = batch_norms(model)
    if not norms:
        return weights
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, momenta = {m: m.training for m in model.modules()}, {m: m.momentum for m in norms.values()}
    model.load_state_dict(weights)
    model.eval()
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average over the batches
        norm.train()
    try:
        for batch in batches:
            model(batch.images)
        statistics = {f"{name}.{k}": v.clone() for name, norm in norms.items() for k, v in norm.named_buffers()}
    finally:
        for module, training in modes.items():
            module.training = training
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        model.load_state_dict(own)
    return {**weights, **statistics}
