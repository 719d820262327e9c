"""Positions of patches: learned grids and their resizing, sin-cos tables, 2-D rotary embedding, relative positions.

Shape letters: P patches, D width, d head width, H heads, (h, w) grid, R prefix tokens, N = R + P.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from vit.model.config import Resize

Rope = tuple[Tensor, Tensor]
"""cos and sin for `rotate`, each [N, d], [H, N, d], or whatever else broadcasts to queries [B, H, N, d]."""

RESIZE: dict[Resize, dict[str, Any]] = {
    "antialias": {"mode": "bicubic", "antialias": True},  # timm; DINOv2 with registers; OpenCLIP
    "plain": {"mode": "bicubic"},  # Hugging Face; DeiT, MAE
    "offset": {"mode": "bicubic"},  # DINO, DINOv2: the scale is (h + .1) / h0, and stays so in the coordinates
    "bilinear": {"mode": "bilinear", "antialias": True},  # SigLIP 2 NaFlex, FlexiViT
    "plain_bilinear": {"mode": "bilinear"},  # Perception Encoder
    "aspect": {"mode": "bicubic", "antialias": True},  # NaFlexViT par: to a square, cropped at its corner
    "aligned": {"mode": "bicubic", "align_corners": True},  # torchvision
    "zoom": {"mode": "bilinear", "align_corners": True},  # vit_jax and big_vision: scipy's zoom of order 1
}
"""How each public code base resizes learned positions to another grid."""


def resize_grid(
    positions: Tensor, old: tuple[int, int], new: tuple[int, int], *, rule: Resize = "antialias", prefix: int = 0
) -> Tensor:
    """Learned positions [1, R + h*w, D] on grid `old` -> [1, R + h'*w', D] on grid `new`, in fp32.

    The first `prefix` positions (R) are kept. Returns the input itself if the grids agree.
    """
    if old == new:
        return positions
    grid = positions[:, prefix:].float().unflatten(1, old).permute(0, 3, 1, 2)  # [1, D, h, w]
    if rule == "offset":
        scale = tuple((n + 0.1) / o for n, o in zip(new, old, strict=True))
        grid = F.interpolate(grid, scale_factor=scale, **RESIZE[rule])
    else:
        size = (max(new), max(new)) if rule == "aspect" else new
        grid = F.interpolate(grid, size=size, **RESIZE[rule])[:, :, : new[0], : new[1]]
    patches = grid.flatten(2).transpose(1, 2).to(positions.dtype)
    return torch.cat([positions[:, :prefix], patches], dim=1) if prefix else patches


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


def patch_coordinates(
    grid: tuple[int, int],
    device: torch.device,
    *,
    centered: bool = True,
    offset: float = 0.0,
    reference: tuple[int, int] | None = None,
    axes: Literal["yx", "xy"] = "yx",
) -> Tensor:
    """(row, column) of every patch, or (column, row) where axes is "xy": float32 [P, 2].

    centered: patch centers on -1..1 (DINOv3); otherwise numbers from `offset` on, scaled to `reference` if given.
    """
    sides = []
    for i, n in enumerate(grid):
        numbers = torch.arange(n, device=device).float()
        if centered:
            axis = (numbers + 0.5) / n * 2 - 1
        else:
            axis = numbers + offset
            axis = axis if reference is None else axis / n * reference[i]
        sides.append(axis)
    place = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).flatten(0, 1)
    return place.flip(-1) if axes == "xy" else place


def axial_rope(
    coordinates: Tensor, head_width: int, prefix: int, base: float, *, full_turns: bool = True, bf16: bool = False
) -> Rope:
    """2-D rotary angles over the coordinates of the patches (DINOv3, Siméoni et al. 2025, section 3.2).

    Half of the channel pairs turn with one coordinate, half with the other, with periods base^(4i/d). The `prefix`
    tokens have no place in the image: their rotation is the identity.

    Args:
        coordinates: [P, 2] from `patch_coordinates`.
        full_turns: a coordinate of 1 is a full turn (centered coordinates) instead of a radian (row and column).
        bf16: round the periods to bfloat16.

    Returns cos and sin [prefix + P, d].
    """
    periods = base ** (torch.arange(head_width // 4, device=coordinates.device) * (4.0 / head_width))  # [d/4]
    periods = periods.bfloat16().float() if bf16 else periods
    coordinates = 2 * torch.pi * coordinates if full_turns else coordinates
    return _cos_sin((coordinates[:, :, None] / periods).flatten(1), prefix)


def mixed_rope(coordinates: Tensor, frequencies: Tensor, prefix: int) -> Rope:
    """Rotary angles of one block from learned frequencies over both coordinates (RoPE-Mixed, Heo et al. 2024, eq. 14).

    coordinates [P, 2], frequencies [2, H, d/2] -> cos and sin [H, prefix + P, d].
    """
    first, second = frequencies[:, :, None].float()  # each [H, 1, d/2]
    return _cos_sin(coordinates[:, :1] * first + coordinates[:, 1:] * second, prefix)


def _cos_sin(angles: Tensor, prefix: int) -> Rope:
    """angles [..., P, d/2] -> cos and sin [..., prefix + P, d]."""
    angles = F.pad(torch.cat([angles, angles], dim=-1), (0, 0, prefix, 0))
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Rotate the channel pairs (i, i + d/2) of queries or keys [B, heads, N, d] (RoFormer, Su et al. 2021,
    eq. 34, in the rotate-half order of channels)."""
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], dim=-1) * sin.to(x.dtype)


class RelativePositions(nn.Module):
    """A learned bias for every offset between two patches and every head (BEiT, Bao et al. 2022, section 2.3 of
    its code): table [(2h-1)(2w-1) + 3, H]. The last three rows are class to patch, patch to class, class to class.
    """

    def __init__(self, grid: tuple[int, int], heads: int, rule: Resize):
        super().__init__()
        self.grid = grid
        self.rule: Resize = rule
        self.table = nn.Parameter(torch.zeros((2 * grid[0] - 1) * (2 * grid[1] - 1) + 3, heads))

    def forward(self, index: Tensor, grid: tuple[int, int]) -> Tensor:
        """`index` from `relative_index(grid)` -> the bias of the scores [1, H, N, N]."""
        table = resize_relative(self.table, self.grid, grid, self.rule)
        return table[index].permute(2, 0, 1)[None]


def relative_index(grid: tuple[int, int]) -> Tensor:
    """Row of the table for each pair of query and key, class token first: int64 [1 + P, 1 + P]."""
    h, w = grid
    place = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1).flatten(0, 1)
    offset = place[:, None] - place[None]  # [P, P, 2]
    index = F.pad((offset[..., 0] + h - 1) * (2 * w - 1) + offset[..., 1] + w - 1, (1, 0, 1, 0))
    last = (2 * h - 1) * (2 * w - 1)
    index[0, :], index[:, 0], index[0, 0] = last, last + 1, last + 2
    return index


def resize_relative(table: Tensor, old: tuple[int, int], new: tuple[int, int], rule: Resize) -> Tensor:
    """A table of relative positions for another grid; the three rows of the class token are kept.

    "antialias" is timm's (and BEiT's) rule: linear between points that lie in a geometric progression, so that
    small offsets keep their values. Any other is Hugging Face's: plain bilinear.
    """
    if old == new:
        return table
    sides, new_sides = [[2 * n - 1 for n in grid] for grid in (old, new)]
    grid = table[:-3].float().T.unflatten(1, sides)  # [H, 2h-1, 2w-1]
    if rule == "antialias":
        rows, columns = (_geometric(o, n).to(grid) for o, n in zip(sides, new_sides, strict=True))
        grid = rows @ grid @ columns.T
    else:
        grid = F.interpolate(grid[None], size=new_sides, mode="bilinear")[0]
    return torch.cat([grid.flatten(1).T.to(table.dtype), table[-3:]])


def _geometric(old: int, new: int) -> Tensor:
    """Linear interpolation from `old` points, whose distances from the middle grow by a constant factor and end
    where the `new` evenly spaced points end: a matrix [new, old]."""
    if old == 1:
        return torch.ones(new, 1, dtype=torch.float64)
    low, high, factor = 1.01, 1.5, 1.0
    while high - low > 1e-6:
        factor = (low + high) / 2
        if (1 - factor ** (old // 2)) / (1 - factor) > new // 2:
            high = factor
        else:
            low = factor
    steps = [0.0]
    for i in range(old // 2):
        steps.append(steps[-1] + factor**i)
    points = torch.tensor([-s for s in reversed(steps[1:])] + steps, dtype=torch.float64)
    targets = torch.arange(new, dtype=torch.float64) - new // 2
    right = torch.searchsorted(points, targets).clamp(1, old - 1)
    share = ((targets - points[right - 1]) / (points[right] - points[right - 1])).clamp(0, 1)
    matrix = torch.zeros(new, old, dtype=torch.float64)
    rows = torch.arange(new)
    matrix[rows, right - 1] = 1 - share
    matrix[rows, right] += share
    return matrix
