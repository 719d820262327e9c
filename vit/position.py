"""Where a patch lies: learned grids and their resizing, sin-cos tables, 2-D rotary embedding.

Shape letters: P patches, D width, d head width, (h, w) grid, R prefix tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Rope = tuple[Tensor, Tensor]
"""cos and sin, each [N, d], for `rotate`."""


def resize_grid(positions: Tensor, old: tuple[int, int], new: tuple[int, int], *, antialias: bool = True) -> Tensor:
    """Learned positions [1, h*w, D] on grid `old` -> [1, h'*w', D] on grid `new`, bicubic in fp32.

    Antialiasing on is timm's rule. Returns the input itself where the grids agree.
    """
    if old == new:
        return positions
    grid = positions.float().reshape(1, *old, -1).permute(0, 3, 1, 2)  # [1, D, h, w]
    grid = F.interpolate(grid, size=new, mode="bicubic", antialias=antialias, align_corners=False)
    return grid.flatten(2).transpose(1, 2).to(positions.dtype)


def sincos_grid(grid: tuple[int, int], width: int, base: float = 10_000.0) -> Tensor:
    """Fixed 2-D sin-cos positions [1, h*w, D], as in MAE (He et al. 2022): the first half of D encodes the
    column, the second the row, each as sin then cos over D/4 frequencies base^(-i / (D/4))."""
    h, w = grid
    frequency = base ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))  # [D/4]
    row, column = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    halves = []
    for coordinate in (column, row):
        angle = coordinate.reshape(-1, 1) * frequency  # [P, D/4]
        halves += [angle.sin(), angle.cos()]
    return torch.cat(halves, dim=1).float()[None]


def axial_rope(grid: tuple[int, int], head_width: int, prefix: int, base: float, device: torch.device) -> Rope:
    """2-D rotary angles over coordinates normalised to [-1, 1] (DINOv3, Siméoni et al. 2025, section 3.2).

    Half of the channel pairs turn with the row, half with the column, with periods base^(4i/d). The `prefix`
    tokens have no place in the picture: their rotation is the identity.
    Returns cos and sin [prefix + h*w, d].
    """
    h, w = grid
    periods = base ** (torch.arange(head_width // 4, device=device) * (4.0 / head_width))  # [d/4]
    rows = (torch.arange(h, device=device) + 0.5) / h * 2 - 1
    columns = (torch.arange(w, device=device) + 0.5) / w * 2 - 1
    place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)  # [P, 2]
    angles = (2 * torch.pi * place[:, :, None] / periods).flatten(1).tile(2)  # [P, d]
    angles = F.pad(angles, (0, 0, prefix, 0))
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Turn the channel pairs (i, i + d/2) of queries or keys [B, heads, N, d] (RoFormer, Su et al. 2021,
    eq. 34, in the rotate-half order of channels)."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], dim=-1) * sin.to(x.dtype)
