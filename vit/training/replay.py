"""Locate where a step becomes non-finite: in the images, a layer, a loss term, or the gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vit.errors import shown
from vit.tasks.precision import autocast
from vit.tasks.task import Task


def examine(task: Task, batch: Any, amp: torch.dtype | None) -> list[str]:
    """Run forward and backward once; findings on what is not finite, in the order of computation."""
    findings: list[str] = []
    images = [row for row, image in zip(batch.index.tolist(), batch.images, strict=True) if not image.isfinite().all()]
    if images:
        findings.append(f"Non-finite pixels: images {shown(images)} of the training set.")
    weights = [name for name, tensor in task.model.state_dict().items() if not _finite(tensor)]
    if weights:
        findings.append(f"Non-finite weights: {shown(weights)}.")
    layers: list[str] = []
    hooks = [
        module.register_forward_hook(partial(_look, name, layers))
        for name, module in task.model.named_modules()
        # A model shares one Identity among many places, so that its name is ambiguous.
        if name and not isinstance(module, nn.Identity)
    ]
    try:
        with autocast(batch.images.device, amp):
            terms = task.losses(batch.images, batch.targets)
    finally:
        for hook in hooks:
            hook.remove()
    if layers:
        findings.append(f"First layer with a non-finite output: {layers[0]}.")
    findings.append("Loss: " + ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in terms.items()) + ".")
    torch.stack(list(terms.values())).sum().backward()
    gradients = [n for n, p in task.model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    if gradients:
        findings.append(f"Non-finite gradients: {shown(gradients)}.")
    elif not layers:
        findings.append("Everything is finite here. The run may have used another device or library version.")
    return findings


def _look(name: str, layers: list[str], module: nn.Module, inputs: Any, output: Any) -> None:
    outputs = output if isinstance(output, tuple | list) else (output,)
    if not all(_finite(value) for value in outputs if isinstance(value, Tensor)):
        layers.append(f"{name} ({type(module).__name__})")


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
