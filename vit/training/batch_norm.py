"""The statistics of batch norms, measured anew for the weights and the images that will be met."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

IMAGES = 1024
"""So many images tell enough: their mean is within a thirtieth of a standard deviation, and each has many places."""


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Those that are trained, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.track_running_stats
        and any(p.requires_grad for p in module.parameters())
    }


@torch.no_grad()
def with_statistics(model: nn.Module, weights: dict[str, Tensor], batches: Iterable[Any]) -> dict[str, Tensor]:
    """`weights` (a state dict of `model`) with mean and variance of every trained batch norm taken over `batches`,
    whose `.images` are float32 [B, C, H, W], prepared as for prediction. The model's own weights are back in place
    afterwards.

    What training leaves behind are averages over augmented and mixed images, under weights that have changed since, and
    that are not their moving average: Izmailov et al. 2018 (section 3.2) measure anew for the second reason, Touvron et
    al. 2019 (section 4) fine-tune for the first.
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
        norm.momentum = None  # a plain average over the batches
        norm.train()
    try:
        for batch in batches:
            model(batch.images)
        found = {f"{name}.{key}": value.clone() for name, norm in norms.items() for key, value in norm.named_buffers()}
    finally:
        for module, training in modes.items():
            module.training = training
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        model.load_state_dict(own)
    return {**weights, **found}
