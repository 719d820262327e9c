"""Where a step stops being finite: in the images, in a layer, in a term of the loss, or on the way back."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vit.errors import shown
from vit.tasks.task import Task
from vit.training.step import autocast


def examine(task: Task, batch: Any, amp: torch.dtype | None) -> list[str]:
    """Forward and backward once; lines that say what is not finite, in the order in which it is computed."""
    told: list[str] = []
    images = [row for row, image in zip(batch.index.tolist(), batch.images, strict=True) if not image.isfinite().all()]
    if images:
        told.append(f"pixels that are not finite: images {shown(images)} of the training set")
    weights = [name for name, tensor in task.model.state_dict().items() if not _finite(tensor)]
    if weights:
        told.append(f"weights that are not finite: {shown(weights)}")
    layers: list[str] = []
    hooks = [
        module.register_forward_hook(partial(_look, name, layers))
        for name, module in task.model.named_modules()
        # A model has one Identity for all its places: its name would be that of another.
        if name and not isinstance(module, nn.Identity)
    ]
    try:
        with autocast(batch.images.device, amp):
            terms = task.losses(batch.images, batch.targets)
    finally:
        for hook in hooks:
            hook.remove()
    if layers:
        told.append(f"the first layer whose output is not finite: {layers[0]}")
    told.append("loss: " + ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in terms.items()))
    torch.stack(list(terms.values())).sum().backward()
    gradients = [n for n, p in task.model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    if gradients:
        told.append(f"gradients that are not finite: {shown(gradients)}")
    elif not layers:
        told.append("all is finite here: another device, or another version of a library, may have made the difference")
    return told


def _look(name: str, layers: list[str], module: nn.Module, inputs: Any, output: Any) -> None:
    found = output if isinstance(output, tuple | list) else (output,)
    if not all(_finite(value) for value in found if isinstance(value, Tensor)):
        layers.append(f"{name} ({type(module).__name__})")


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
