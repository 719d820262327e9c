"""The encoder: images -> Tokens(prefix, patches, grid)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vit.config import EncoderConfig
from vit.errors import UserError
from vit.layers import Block, ConvPatches, LinearPatches, make_norm
from vit.position import axial_rope, resize_grid, sincos_grid


class Tokens(NamedTuple):
    prefix: Tensor
    """[B, R, D]: the class token, if there is one, then the registers."""
    patches: Tensor
    """[B, P, D], row by row."""
    grid: tuple[int, int]
    """(h, w) with h * w = P."""


class Encoder(nn.Module):
    """A plain ViT (Dosovitskiy et al. 2021) for any H and W that are multiples of the patch size."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        c = self.config = config
        stem = ConvPatches if c.stem == "conv" else LinearPatches
        self.patch_embed = stem(c.in_chans, c.patch_size, c.width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, c.width)) if c.class_token else None
        self.reg_token = nn.Parameter(torch.empty(1, c.registers, c.width)) if c.registers else None
        h, w = c.grid
        learned = c.positions == "learned"
        self.pos_embed = nn.Parameter(torch.empty(1, h * w, c.width)) if learned else None
        rates = [c.drop_path * i / max(1, c.depth - 1) for i in range(c.depth)]
        self.drop = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c, drop_path=rate) for rate in rates)
        self.norm = make_norm(c.norm, c.width, c.eps) if c.final_norm else nn.Identity()
        self._tables: dict[tuple, tuple[Tensor, Tensor] | Tensor] = {}
        init_weights(self)

    def forward(self, images: Tensor) -> Tokens:
        """images [B, C, H, W] float, normalised -> tokens after the last norm."""
        x, grid, rope = self.embed(images)
        for block in self.blocks:
            x = block(x, rope=rope)
        x = self.norm(x)
        return Tokens(x[:, : self.config.prefix], x[:, self.config.prefix :], grid)

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int], tuple[Tensor, Tensor] | None]:
        """-> tokens [B, R + P, D] as the first block sees them, their grid, and the rotary angles if any."""
        c = self.config
        height, width = images.shape[-2:]
        if height % c.patch_size or width % c.patch_size:
            raise UserError(
                f"images of {height}x{width} pixels do not divide into patches of {c.patch_size}x{c.patch_size}; "
                f"resize them to multiples of {c.patch_size}."
            )
        grid = (height // c.patch_size, width // c.patch_size)
        x = self.patch_embed(images)
        positions = self._positions(grid, x)
        if positions is not None:
            x = x + positions
        prefix = [t.expand(len(x), -1, -1) for t in (self.cls_token, self.reg_token) if t is not None]
        x = torch.cat([*prefix, x], dim=1) if prefix else x
        return self.drop(x), grid, self._rope(grid, x.device)

    def _positions(self, grid: tuple[int, int], like: Tensor) -> Tensor | None:
        if self.pos_embed is not None:
            return resize_grid(self.pos_embed, self.config.grid, grid)
        if self.config.positions == "none":
            return None
        key = ("sincos", grid, like.device)
        if key not in self._tables:
            with torch.inference_mode(False):  # made while evaluating, it serves training too
                self._tables[key] = sincos_grid(grid, self.config.width).to(like.device)
        return self._tables[key]  # pyright: ignore[reportReturnType]

    def _rope(self, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor] | None:
        c = self.config
        if not c.rope:
            return None
        key = ("rope", grid, device)
        if key not in self._tables:
            with torch.inference_mode(False):  # made while evaluating, it serves training too
                self._tables[key] = axial_rope(grid, c.width // c.heads, c.prefix, c.rope_base, device)
        return self._tables[key]  # pyright: ignore[reportReturnType]


def init_weights(module: nn.Module) -> None:
    """Initialise in place.

    | what                            | how                                                |
    |---------------------------------|----------------------------------------------------|
    | linear layers                   | truncated normal, std .02; bias 0                  |
    | convolutions of the stem        | Kaiming normal, fan out                            |
    | learned positions, registers    | truncated normal, std .02                          |
    | class token                     | normal, std 1e-6, so that it starts as its position |
    | norms, LayerScale               | as constructed (1 and 0; the configured value)     |
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, Encoder):
        for tokens, std in ((module.pos_embed, 0.02), (module.reg_token, 0.02)):
            if tokens is not None:
                nn.init.trunc_normal_(tokens, std=std)
        if module.cls_token is not None:
            nn.init.normal_(module.cls_token, std=1e-6)
