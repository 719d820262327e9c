"""Parts that query selection and decoder share: the box head, the box update, positions of boxes."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit.model.linear import Linear

PRIOR = -math.log(99.0)
"""Bias of a class head under which every score starts at 1 % (Lin et al. 2017, section 4.1)."""


class ReluMlp(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, *widths: int):
        super().__init__()
        self.layers = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def box_head(width: int) -> ReluMlp:
    """[..., D] -> change of a box [..., 4]."""
    return ReluMlp(width, width, width, 4)


def apply_delta(boxes: Tensor, delta: Tensor) -> Tensor:
    """cxcywh boxes [..., 4] after a change: center + delta * size, size * exp(delta).

    There is no sigmoid, so that a delta moves a box at the border as far as one in the middle, in units of the box.
    """
    # Half precision would round boxes to a grid of a few pixels.
    boxes, delta = boxes.float(), delta.float()
    center = boxes[..., :2] + delta[..., :2] * boxes[..., 2:]
    return torch.cat([center, boxes[..., 2:] * delta[..., 2:].exp()], dim=-1)


def box_positions(boxes: Tensor, width: int) -> Tensor:
    """Sin-cos features of cxcywh boxes [..., 4] -> [..., 4 * width] in the order y, x, w, h (DAB-DETR, Liu et al. 2022,
    eq. 4): even channels are sines, odd ones cosines, over 2 pi / 10000^(2i / width)."""
    frequency = 2 * torch.pi * 10_000 ** -(torch.arange(0, width, 2, device=boxes.device) / width)  # [width / 2]
    angle = boxes.float()[..., (1, 0, 2, 3), None] * frequency  # [..., 4, width / 2]
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-3)
