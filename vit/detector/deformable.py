"""Deformable cross-attention: a query samples a few points of each feature map."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit.model.linear import Linear


class DeformableAttention(nn.Module):
    """Cross-attention at a few points only (Zhu et al. 2021, eq. 3): each head of a query samples `points` points of
    each feature map, around the query's box, and sums them with learned weights.

    Letters: Q queries, L maps, K points, M cells of all maps, (h, w) the grid of a map.
    """

    def __init__(self, width: int, heads: int, *, levels: int = 1, points: int = 4):
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.gather = False
        """Sample by index instead of by `grid_sample`: for export, where that operator is missing or slow."""
        self.offsets = Linear(width, heads * levels * points * 2)
        self.weights = Linear(width, heads * levels * points)
        self.value = Linear(width, width)
        self.proj = Linear(width, width)
        self.init_weights()

    def init_weights(self) -> None:
        """Point k of head j starts k steps from the center in direction j of a circle; all weigh alike."""
        for linear in (self.offsets, self.weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        angle = torch.arange(self.heads) * (2 * torch.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)  # [H, 2]
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)
        start = direction[:, None, None] * steps[:, None]  # [H, 1, K, 2]
        with torch.no_grad():
            self.offsets.bias.copy_(start.expand(-1, self.levels, -1, -1).flatten())
        for linear in (self.value, self.proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, q: Tensor, boxes: Tensor, maps: Tensor, grids: list[tuple[int, int]]) -> Tensor:
        """q [B, Q, D], boxes cxcywh [B, Q, 4] in 0..1, maps [B, M, D] with grid after grid -> [B, Q, D]."""
        shape = (self.heads, self.levels, self.points)
        offsets = self.offsets(q).unflatten(-1, (*shape, 2))  # [B, Q, H, L, K, 2]
        weights = self.weights(q).unflatten(-1, (self.heads, -1)).softmax(-1).unflatten(-1, shape[1:])
        center, size = boxes[:, :, None, None, None, :2], boxes[:, :, None, None, None, 2:]
        # A box is `points` steps wide: the outermost point starts on its border.
        places = center + offsets * (size * (0.5 / self.points))
        values = self.value(maps).unflatten(-1, (self.heads, -1))  # [B, M, H, d]
        sample = sample_by_index if self.gather else sample_by_grid
        x = sample(values, grids, places, weights)
        return self.proj(x)


def sample_by_grid(values: Tensor, grids: list[tuple[int, int]], places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples: values [B, M, H, d], places (x, y) in 0..1 [B, Q, H, L, K, 2], weights
    [B, Q, H, L, K] -> [B, Q, H * d]. Outside of a map the values are 0."""
    batch, queries, heads = places.shape[:3]
    found = []
    for level, (part, (h, w)) in enumerate(zip(values.split([h * w for h, w in grids], dim=1), grids, strict=True)):
        image = part.permute(0, 2, 3, 1).reshape(batch * heads, -1, h, w)
        grid = (2 * places[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)  # [B * H, Q, K, 2]
        found.append(F.grid_sample(image, grid.to(image.dtype), padding_mode="zeros", align_corners=False))
    samples = torch.cat(found, dim=-1)  # [B * H, d, Q, L * K]
    weights = weights.flatten(3).transpose(1, 2).flatten(0, 1)[:, None]  # [B * H, 1, Q, L * K]
    return (samples * weights).sum(-1).view(batch, -1, queries).transpose(1, 2)


def sample_by_index(values: Tensor, grids: list[tuple[int, int]], places: Tensor, weights: Tensor) -> Tensor:
    """The same as `sample_by_grid`, by gathering the four cells around each point."""
    batch, queries = places.shape[:2]
    head_width = values.shape[-1]
    total = torch.zeros((), device=values.device, dtype=values.dtype)
    for level, (part, (h, w)) in enumerate(zip(values.split([h * w for h, w in grids], dim=1), grids, strict=True)):
        flat = part.transpose(1, 2)  # [B, H, h * w, d]
        x = places[:, :, :, level, :, 0].transpose(1, 2) * w - 0.5  # [B, H, Q, K]
        y = places[:, :, :, level, :, 1].transpose(1, 2) * h - 0.5
        left, top = x.floor(), y.floor()
        share = weights[:, :, :, level].transpose(1, 2)
        for column, by_x in ((left, left + 1 - x), (left + 1, x - left)):
            for row, by_y in ((top, top + 1 - y), (top + 1, y - top)):
                inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
                cell = row.clamp(0, h - 1) * w + column.clamp(0, w - 1)  # [B, H, Q, K]
                index = cell.long().flatten(2)[..., None].expand(-1, -1, -1, head_width)
                read = flat.gather(2, index).unflatten(2, (queries, -1))  # [B, H, Q, K, d]
                total = total + (read * (by_x * by_y * share * inside)[..., None]).sum(3)
    return total.transpose(1, 2).reshape(batch, queries, -1)
