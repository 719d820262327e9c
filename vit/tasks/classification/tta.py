"""Test-time augmentation: several views of an image, one averaged answer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# Zooms about the center. 1 comes first and is exact; the others are mild, as the images were framed for 1.
SCALES = (1.0, 1.1, 0.9)


def with_tta(
    forward: Callable[[Tensor], Tensor],
    *,
    flip: bool,
    scales: tuple[float, ...] = SCALES,
    multilabel: bool = False,
) -> Callable[[Tensor], Tensor]:
    """The same model over every scale, and its mirror image if `flip`, with the probabilities averaged.

    Leave `flip` off where left and right differ in meaning: digits, letters, signs. What comes out are the
    logarithms of averaged probabilities (log odds when multi-label), so that it stands in for logits [B, K].
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
    """Magnify [B, 3, H, W] about the center; the size stays, so that any model takes the result.

    Below 1 the edge pixels are repeated outwards.
    """
    if scale == 1.0:
        return images
    theta = torch.tensor([[1 / scale, 0.0, 0.0], [0.0, 1 / scale, 0.0]], device=images.device, dtype=images.dtype)
    grid = F.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
