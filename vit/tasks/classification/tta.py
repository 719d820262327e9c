"""Test-time augmentation: average the probabilities of several views of an image."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# Zooms about the center; the first, 1, is exact. The others are mild, since images are framed for 1.
SCALES = (1.0, 1.1, 0.9)


def with_tta(
    forward: Callable[[Tensor], Tensor],
    *,
    flip: bool,
    scales: tuple[float, ...] = SCALES,
    multilabel: bool = False,
) -> Callable[[Tensor], Tensor]:
    """The model averaged over all scales, and over mirror images if `flip`.

    Leave `flip` off if left and right differ in meaning (digits, letters, signs). Returns the log of the averaged
    probabilities (log odds if multi-label), usable as logits [B, K].
    """

    def averaged(images: Tensor) -> Tensor:
        views = [zoomed(images, scale) for scale in scales]
        if flip:
            views += [view.flip(3) for view in views]
        each = torch.stack([forward(view).float() for view in views])
        if multilabel:
            return each.sigmoid().mean(0).logit(eps=1e-7)
        return each.log_softmax(2).logsumexp(0) - math.log(len(views))

    return averaged


def zoomed(images: Tensor, scale: float) -> Tensor:
    """Magnify [B, 3, H, W] about the center, at the same size. Below 1, edge pixels are repeated outward."""
    if scale == 1.0:
        return images
    theta = torch.tensor([[1 / scale, 0.0, 0.0], [0.0, 1 / scale, 0.0]], device=images.device, dtype=images.dtype)
    grid = F.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
