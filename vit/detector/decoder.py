"""The decoder: queries attend to each other and, around their boxes, to the feature maps.

Letters: B batch, G groups, Q queries of a group, D width, M cells of all maps.
"""

from __future__ import annotations

from torch import Tensor, nn

from vit.detector.config import DetectorConfig
from vit.detector.deformable import DeformableAttention
from vit.detector.heads import ReluMlp, box_positions
from vit.model.attention import Attention
from vit.model.layers import Mlp


class DecoderBlock(nn.Module):
    """Self-attention, deformable cross-attention, feed-forward, with the norm after each sum (Vaswani et al. 2017)
    as in the public detectors; the position of a query is added to q and k but not to v."""

    def __init__(self, c: DetectorConfig):
        super().__init__()
        self.attn = Attention(c.width, c.heads, dropout=c.dropout)
        self.norm1 = nn.LayerNorm(c.width)
        self.cross = DeformableAttention(c.width, c.sampling_heads, levels=len(c.scales), points=c.points)
        self.norm2 = nn.LayerNorm(c.width)
        self.mlp = Mlp(c.width, c.mlp, "relu", c.dropout)
        self.norm3 = nn.LayerNorm(c.width)
        self.drop = nn.Dropout(c.dropout)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        boxes: Tensor,
        maps: Tensor,
        grids: list[tuple[int, int]],
        groups: int = 1,
    ) -> Tensor:
        """x and position [B, G * Q, D], boxes [B, G * Q, 4], maps [B, M, D] -> [B, G * Q, D]. Queries attend within
        their group."""
        v = x.unflatten(1, (groups, -1)).flatten(0, 1)  # [B * G, Q, D]
        q = (x + position).unflatten(1, (groups, -1)).flatten(0, 1)
        y = self.attn(q, q, v).unflatten(0, (-1, groups)).flatten(1, 2)
        x = self.norm1(x + self.drop(y))
        x = self.norm2(x + self.drop(self.cross(x + position, boxes, maps, grids)))
        return self.norm3(x + self.mlp(x))


class Decoder(nn.Module):
    """Every layer samples around the same boxes, those of the selection; its output is normalized for the heads."""

    def __init__(self, config: DetectorConfig):
        super().__init__()
        width = config.width
        self.position = ReluMlp(2 * width, width, width)
        self.layers = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.width = width

    def forward(
        self, x: Tensor, boxes: Tensor, maps: Tensor, grids: list[tuple[int, int]], groups: int = 1
    ) -> list[Tensor]:
        """x [B, G * Q, D], boxes [B, G * Q, 4] -> a tensor [B, G * Q, D] for each layer."""
        position = self.position(box_positions(boxes, self.width // 2).to(x.dtype))
        outputs = []
        for layer in self.layers:
            x = layer(x, position, boxes, maps, grids, groups)
            outputs.append(self.norm(x))
        return outputs
