"""Denoising queries: they start from noised boxes of the objects and learn to restore them (DN-DETR, Li et al. 2022,
section 4.3).

They train the decoder from the first step on; without them it has to wait for a selection that finds objects. DN-DETR
also gives a query the object's class, sometimes a wrong one. Here a query gets no class and has to predict it.

Letters: B batch, Q queries, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SHIFT, STRETCH = 0.25, 0.4
"""A center moves by at most SHIFT of its box's sides; the logarithm of a side changes by at most STRETCH."""


def noised_boxes(targets: Sequence[dict[str, Any]], count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Q = `count` boxes an image, cxcywh [B, Q, 4] on the device, and their `DenoisedOutput.owner`.

    targets: `boxes` [n, 4] of each image; its objects have the same number of queries each, or one more.
    """
    owner = torch.stack(
        [torch.arange(count) % n if (n := len(t["boxes"])) else torch.full((count,), -1) for t in targets]
    )
    whole = torch.tensor([0.5, 0.5, 1.0, 1.0], device=device)
    boxes = torch.stack(
        [
            t["boxes"].to(device, torch.float32)[rows.to(device)] if len(t["boxes"]) else whole.expand(count, 4)
            for t, rows in zip(targets, owner, strict=True)
        ]
    )
    by = torch.rand(boxes.shape, device=device) * 2 - 1
    center = boxes[..., :2] + SHIFT * by[..., :2] * boxes[..., 2:]
    return torch.cat([center, boxes[..., 2:] * (STRETCH * by[..., 2:]).exp()], dim=-1), owner
