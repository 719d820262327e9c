"""Query selection: the cells of the maps that become queries (two-stage selection, Zhu et al. 2021, section 4.2).

Letters: B batch, M cells of all maps, Q queries, D width, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vit.detector.heads import apply_delta, box_head
from vit.model.linear import Linear


class Selected(NamedTuple):
    logits: Tensor
    """[B, Q, C]"""
    boxes: Tensor
    """[B, Q, 4], cxcywh in 0..1; carries a gradient."""


class Selection(nn.Module):
    """Scores every cell, keeps the Q best and predicts their boxes; each group of queries has its own selection."""

    def __init__(self, width: int, num_classes: int, queries: int):
        super().__init__()
        self.queries = queries
        self.proj = Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.class_head = Linear(width, num_classes)
        self.box_head = box_head(width)

    def forward(self, cells: Tensor, anchors: Tensor, usable: Tensor) -> Selected:
        """cells [B, M, D], anchors [M, 4], usable bool [M]. With fewer than Q cells there are fewer queries."""
        x = self.norm(self.proj(cells * usable[:, None]))
        logits = self.class_head(x)  # [B, M, C]
        score = logits.detach().float().amax(-1).masked_fill(~usable, float("-inf"))
        best = score.topk(min(self.queries, score.shape[1]), dim=1).indices  # [B, Q]
        # The box head comes after the choice, for Q cells instead of M.
        x = x.gather(1, best[..., None].expand(-1, -1, x.shape[-1]))
        logits = logits.gather(1, best[..., None].expand(-1, -1, logits.shape[-1]))
        return Selected(logits, apply_delta((anchors * usable[:, None])[best], self.box_head(x)))


def anchors(grids: list[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """One box for each cell, cxcywh [M, 4], of side 0.05 * 2^level around its center, and which cells are usable, bool
    [M]: boxes within .01 and .99 of the image, as the public weights were trained."""
    parts = []
    for level, (h, w) in enumerate(grids):
        y = (torch.arange(h, device=device) + 0.5) / h
        x = (torch.arange(w, device=device) + 0.5) / w
        y, x = torch.meshgrid(y, x, indexing="ij")
        side = torch.full_like(x, 0.05 * 2.0**level)
        parts.append(torch.stack([x, y, side, side], dim=-1).flatten(0, 1))
    boxes = torch.cat(parts)
    return boxes, ((boxes > 0.01) & (boxes < 0.99)).all(-1)
