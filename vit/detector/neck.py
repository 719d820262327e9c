"""The neck: resizes the encoder's maps, concatenates and mixes them for the decoder (LW-DETR's projector).

Letters: B batch, T taps, E encoder width, D decoder width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit.detector.config import DetectorConfig


class MapNorm(nn.LayerNorm):
    """LayerNorm over the channels of maps [B, D, h, w]."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNorm(nn.Module):
    def __init__(self, before: int, after: int, kernel: int, c: DetectorConfig, *, stride: int = 1, relu: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = MapNorm(after, c.neck_eps) if c.neck_norm == "layernorm" else nn.BatchNorm2d(after, c.neck_eps)
        self.activation = F.relu if relu else F.silu

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class C2f(nn.Module):
    """Half of the channels pass a chain of 3x3 convolutions, and the output of every link is kept (YOLOv8)."""

    def __init__(self, before: int, c: DetectorConfig):
        super().__init__()
        half = c.width // 2
        self.enter = ConvNorm(before, 2 * half, 1, c)
        self.chain = nn.ModuleList(
            nn.Sequential(ConvNorm(half, half, 3, c), ConvNorm(half, half, 3, c)) for _ in range(c.neck_blocks)
        )
        self.leave = ConvNorm((2 + c.neck_blocks) * half, c.width, 1, c)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, dim=1))
        for link in self.chain:
            parts.append(link(parts[-1]))
        return self.leave(torch.cat(parts, dim=1))


class Scale(nn.Module):
    """T maps [B, E, h, w], and a stem's map [B, E/2, 2h, 2w] -> one map [B, D, s*h, s*w]."""

    def __init__(self, c: DetectorConfig, scale: float):
        super().__init__()
        width = c.encoder.width
        self.resize = nn.ModuleList(_resizing(c, scale) for _ in c.taps)
        after = width if scale <= 1 else width // 4 if c.neck_squeeze else width // 2
        self.mix = C2f(after * len(c.taps) + (width // 2 if c.stem_map else 0), c)
        self.norm = MapNorm(c.width, 1e-6)

    def forward(self, maps: list[Tensor]) -> Tensor:
        tapped = maps[: len(self.resize)]  # the stem's map, if there is one, already has this size
        parts = [resize(x) for resize, x in zip(self.resize, tapped, strict=True)] + maps[len(self.resize) :]
        return self.norm(self.mix(torch.cat(parts, dim=1)))


class Neck(nn.Module):
    """The encoder's T maps -> one map [B, D, h_l, w_l] for each of `config.scales`."""

    def __init__(self, config: DetectorConfig):
        super().__init__()
        self.scales = nn.ModuleList(Scale(config, scale) for scale in config.scales)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [scale(maps) for scale in self.scales]


def _resizing(c: DetectorConfig, scale: float) -> nn.Sequential:
    width = c.encoder.width
    if scale == 1:
        return nn.Sequential()
    if scale < 1:
        return nn.Sequential(ConvNorm(width, width, 3, c, stride=2, relu=True))
    if c.neck_squeeze:
        squeeze = ConvNorm(width, width // 2, 1, c, relu=True)
        return nn.Sequential(squeeze, nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2))
    return nn.Sequential(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
