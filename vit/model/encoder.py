"""The encoder: images -> Tokens(prefix, patches, grid)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vit.errors import UserError
from vit.model.attention import NOTHING
from vit.model.config import EncoderConfig
from vit.model.layers import Block, make_norm
from vit.model.patches import ConvPatches, LinearPatches
from vit.model.position import (
    RelativePositions,
    Rope,
    axial_rope,
    mixed_rope,
    patch_coordinates,
    relative_index,
    resize_grid,
    sincos_grid,
)


class Tokens(NamedTuple):
    prefix: Tensor
    """[B, R, D]: the class token and the distillation token, if there are any, then the registers."""
    patches: Tensor
    """[B, P, D], row by row; in training with `patch_dropout` there are fewer."""
    grid: tuple[int, int]
    """(h, w); h * w = P unless patches were dropped."""


class Encoder(nn.Module):
    """A plain ViT (Dosovitskiy et al. 2021) for any H and W that are multiples of the patch size."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        c = self.config = config
        stem = ConvPatches if c.stem == "conv" else LinearPatches
        self.patch_embed = stem(c.in_chans, c.patch_size, c.width, bias=c.patch_bias)
        self.patch_norm = make_norm(c.norm, c.width, c.eps) if c.patch_norm else NOTHING
        self.cls_token = nn.Parameter(torch.empty(1, 1, c.width)) if c.class_token else None
        self.dist_token = nn.Parameter(torch.empty(1, 1, c.width)) if c.distill_token else None
        self.reg_token = nn.Parameter(torch.empty(1, c.registers, c.width)) if c.registers else None
        h, w = c.grid
        learned = c.positions == "learned"
        self.pos_embed = nn.Parameter(torch.empty(1, c.prefix_positions + h * w, c.width)) if learned else None
        rates = [c.drop_path * i / max(1, c.depth - 1) for i in range(c.depth)]
        self.drop = nn.Dropout(c.dropout) if c.dropout else NOTHING
        self.norm_pre = make_norm(c.norm, c.width, c.eps) if c.pre_norm else NOTHING
        self.blocks = nn.ModuleList(Block(c, drop_path=rate) for rate in rates)
        self.relative = None
        if c.relative_positions:
            self.relative = nn.ModuleList(RelativePositions(c.grid, c.heads, c.position_resize) for _ in rates)
        mixed = c.rope and c.rope_mixed
        self.rope_freqs = nn.Parameter(torch.empty(2, c.depth, c.heads, c.width // c.heads // 2)) if mixed else None
        self.norm = make_norm(c.norm, c.width, c.eps) if c.final_norm else NOTHING
        self._tables: dict[tuple, Any] = {}
        self.merging: Callable[[Encoder, Tensor, tuple[int, int]], Tokens] | None = None
        """Replaces the blocks and the last norm in evaluation: see `vit.model.merging`."""
        init_weights(self)

    def forward(self, images: Tensor) -> Tokens:
        """images [B, C, H, W] float, normalized -> tokens after the last norm."""
        x, grid = self.embed(images)
        if self.merging is not None and not self.training:
            return self.merging(self, x, grid)
        ropes, masks = self.ropes(grid, x.device), self.masks(grid, x.device)
        if self.training and self.config.patch_dropout > 0:
            x, ropes, masks = drop_patches(x, ropes, masks, self.config.prefix, self.config.patch_dropout)
        for block, rope, mask in zip(self.blocks, ropes, masks, strict=True):
            x = block(x, mask=mask, rope=rope)
        x = self.norm(x)
        return Tokens(x[:, : self.config.prefix], x[:, self.config.prefix :], grid)

    def embed(self, images: Tensor, patches: Tensor | None = None) -> tuple[Tensor, tuple[int, int]]:
        """-> tokens [B, R + P, D], the input of the first block, and their grid.

        patches: the output of `patch_embed` for the images, if it is known already. Raises UserError on a size that is
        no multiple of the patch size.
        """
        c = self.config
        height, width = images.shape[-2:]
        if height % c.patch_size or width % c.patch_size:
            raise UserError(
                f"Images of {height}x{width} pixels do not divide into patches of {c.patch_size}x{c.patch_size}: "
                f"resize them to multiples of {c.patch_size}."
            )
        grid = (height // c.patch_size, width // c.patch_size)
        x = self.patch_norm(self.patch_embed(images) if patches is None else patches)
        tokens: list[Tensor] = [t for t in (self.cls_token, self.dist_token, self.reg_token) if t is not None]
        prefix = torch.cat(tokens, dim=1) if tokens else None  # [1, R, D]
        positions = self._positions(grid, x)
        if positions is not None:
            placed = c.prefix_positions
            x = x + positions[:, placed:]
            if placed and prefix is not None:
                prefix = torch.cat([prefix[:, :placed] + positions[:, :placed], prefix[:, placed:]], dim=1)
        x = torch.cat([prefix.expand(len(x), -1, -1), x], dim=1) if prefix is not None else x
        return self.norm_pre(self.drop(x)), grid

    def _positions(self, grid: tuple[int, int], like: Tensor) -> Tensor | None:
        if self.pos_embed is not None:
            c = self.config
            return resize_grid(self.pos_embed, c.grid, grid, rule=c.position_resize, prefix=c.prefix_positions)
        if self.config.positions == "none":
            return None
        return self._table("sincos", grid, like.device, lambda: sincos_grid(grid, self.config.width))

    def ropes(self, grid: tuple[int, int], device: torch.device) -> list[Rope] | list[None]:
        """Rotary angles of each block, or None for each."""
        c = self.config
        if not c.rope:
            return [None] * c.depth
        if self.rope_freqs is not None:
            coordinates = self._table("coordinates", grid, device, lambda: self._coordinates(grid, device))
            return [mixed_rope(coordinates, frequencies, c.prefix) for frequencies in self.rope_freqs.unbind(1)]
        rope = self._table("rope", grid, device, lambda: self._axial_rope(grid, device))
        return [rope] * c.depth

    def _axial_rope(self, grid: tuple[int, int], device: torch.device) -> Rope:
        c = self.config
        return axial_rope(
            self._coordinates(grid, device),
            c.width // c.heads,
            c.prefix,
            c.rope_base,
            full_turns=c.rope_places == "centered",
            bf16=c.rope_bf16,
        )

    def _coordinates(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        c = self.config
        return patch_coordinates(
            grid,
            device,
            centered=c.rope_places == "centered",
            offset=c.rope_offset,
            reference=c.rope_reference,
            axes=c.rope_axes,
        )

    def masks(self, grid: tuple[int, int], device: torch.device) -> list[Tensor] | list[None]:
        """What each block adds to its scores, [1, heads, N, N], or None for each."""
        if self.relative is None:
            return [None] * self.config.depth
        index = self._table("relative", grid, device, lambda: relative_index(grid))
        return [table(index, grid) for table in self.relative]

    def _table(self, what: str, grid: tuple[int, int], device: torch.device, make: Callable[[], Any]) -> Any:
        key = (what, grid, device)
        if key not in self._tables:
            with torch.inference_mode(False):  # a table made in evaluation must also serve training
                table = make()
                self._tables[key] = table.to(device) if isinstance(table, Tensor) else table
        return self._tables[key]


def drop_patches(
    x: Tensor, ropes: Sequence[Rope | None], masks: Sequence[Tensor | None], prefix: int, rate: float
) -> tuple[Tensor, list[Rope | None], list[Tensor | None]]:
    """Drop a share `rate` of each image's patches at random: the tokens left, in order, and their rotary angles and
    masks for each image. x [B, R + P, D] -> [B, R + P', D] with P' of at least 1."""
    patches = x.shape[1] - prefix
    left = max(1, round(patches * (1 - rate)))
    drawn = torch.rand(len(x), patches, device=x.device).argsort(1)[:, :left].sort(1).values + prefix
    kept = torch.cat([torch.arange(prefix, device=x.device).expand(len(x), -1), drawn], dim=1)  # [B, R + P']

    def rows(table: Tensor) -> Tensor:  # [N, d] or [H, N, d] -> [B, 1 or H, R + P', d]
        return (table if table.ndim == 3 else table[None])[:, kept].transpose(0, 1)

    def pairs(mask: Tensor) -> Tensor:  # [1, H, N, N] -> [B, H, R + P', R + P']
        return mask[0][:, kept[:, :, None], kept[:, None]].transpose(0, 1)

    made: dict[int, Rope] = {}  # most encoders have one table for all blocks
    for rope in ropes:
        if rope is not None and id(rope) not in made:
            made[id(rope)] = (rows(rope[0]), rows(rope[1]))
    x = x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[-1]))
    return x, [made.get(id(rope)) for rope in ropes], [None if mask is None else pairs(mask) for mask in masks]


def init_weights(module: nn.Module) -> None:
    """Initialize in place.

    | what                            | how                                                |
    |---------------------------------|----------------------------------------------------|
    | linear layers                   | truncated normal, std .02; bias 0                  |
    | convolutions of the stem        | Kaiming normal, fan out                            |
    | learned positions, registers, distillation token | truncated normal, std .02         |
    | class token                     | normal, std 1e-6, so that it starts as its position |
    | mixed rotary frequencies        | base^(-4i/d), rotated by a random angle for each head |
    | norms, LayerScale               | as constructed (1 and 0; the configured value)     |
    """
    if any(parameter.is_meta for parameter in module.parameters()):
        return  # there is nothing to set, and torch would spend a second on loading its Python references
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, Encoder):
        for tokens in (module.pos_embed, module.dist_token, module.reg_token):
            if tokens is not None:
                nn.init.trunc_normal_(tokens, std=0.02)
        if module.cls_token is not None:
            nn.init.normal_(module.cls_token, std=1e-6)
        if module.rope_freqs is not None:
            with torch.no_grad():
                module.rope_freqs.copy_(_random_frequencies(module.rope_freqs.shape, module.config.rope_base))


def _random_frequencies(shape: torch.Size, base: float) -> Tensor:
    """Frequencies [2, depth, H, d/2] of row and column, in two orthogonal directions rotated at random (Heo et al.
    2024, section 3.2)."""
    _, depth, heads, pairs = shape
    length = base ** -(torch.arange(pairs // 2) * (2.0 / pairs))  # [d/4]
    angle = torch.rand(depth, heads, 1) * 2 * torch.pi
    rows = torch.cat([length * angle.sin(), length * angle.cos()], dim=-1)
    columns = torch.cat([length * angle.cos(), -length * angle.sin()], dim=-1)
    return torch.stack([rows, columns])
