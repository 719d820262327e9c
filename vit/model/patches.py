"""Patch embeddings, by one matrix product or by a few convolutions.

Shape letters: B batch, C image channels, p patch side, P patches, h w their grid, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vit.model.linear import Linear


class LinearPatches(nn.Module):
    """Images [B, C, H, W] -> patches [B, P, D] by one matrix product: a convolution with stride p without its
    overhead. H and W are multiples of p."""

    def __init__(self, in_chans: int, patch_size: int, width: int, *, bias: bool = True):
        super().__init__()
        self.patch_size = patch_size
        self.proj = Linear(in_chans * patch_size**2, width, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        p = self.patch_size
        x = images.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # [B, C, h, p, w, p]
        return self.proj(x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))


class ConvPatches(nn.Module):
    """The same by 3x3 convolutions, batch norm and ReLU that double the width whenever they halve the side ("early
    convolutions", Xiao et al. 2021): one at stride 2, then one at stride 1 and one at stride 2 for every further
    halving, then a linear layer to width D. The patch size is a power of two.

    Local detail and overlap are built in, which a linear embedding must learn; small data sets need that. No
    convolution runs at full resolution, where it would cost most (benchmarks/digits.md).
    """

    LAST = 6
    """Modules of `convs` after the second-to-last halving: two convolutions, each with norm and ReLU."""

    def __init__(self, in_chans: int, patch_size: int, width: int, *, bias: bool = True):
        super().__init__()
        halvings = patch_size.bit_length() - 1
        layers: list[nn.Module] = []
        before = in_chans
        for i in range(halvings):
            after = max(16, width >> (halvings - 1 - i))
            for stride in (2,) if i == 0 else (1, 2):
                conv = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
                before = after
        self.convs = nn.Sequential(*layers)
        self.proj = Linear(before, width, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.coarse(self.fine(images))

    def fine(self, images: Tensor) -> Tensor:
        """The first part, up to patches of half the side: [B, C, H, W] -> [B, D'/2, 2h, 2w]."""
        return self.convs[: -self.LAST](images.contiguous(memory_format=torch.channels_last))

    def coarse(self, fine: Tensor) -> Tensor:
        """The rest: the output of `fine` -> patches [B, P, D]."""
        x = self.convs[-self.LAST :](fine)  # [B, D', h, w]
        return self.proj(x.flatten(2).transpose(1, 2))
