"""The encoder with attention in windows, and its tokens at several depths as feature maps.

Letters: B batch, W windows of an image, R prefix tokens, P patches, p patches of a window, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vit.detector.config import DetectorConfig
from vit.errors import UserError
from vit.model.encoder import Encoder
from vit.model.position import Rope


def tapped_maps(encoder: Encoder, images: Tensor, config: DetectorConfig) -> list[Tensor]:
    """images [B, C, H, W] -> one map [B, D, h, w] for each of `config.taps`, and with `config.stem_map` the stem's
    [B, D/2, 2h, 2w].

    With windows, tokens stay sorted by window from the first block to the last (LW-DETR, Chen et al. 2024, section
    3.3), so that a global block needs only a reshape. Every window has its own copy of the prefix tokens.
    """
    check_size(images.shape[-2:], config)
    stem: Any = encoder.patch_embed
    fine = stem.fine(images) if config.stem_map else None
    x, grid = encoder.embed(images, None if fine is None else stem.coarse(fine))
    prefix, side = encoder.config.prefix, config.windows
    windows = side * side
    ropes, masks = encoder.ropes(grid, x.device), encoder.masks(grid, x.device)
    if windows > 1:
        ropes = ropes_in_windows(ropes, grid, prefix, config, len(images))
    x = into_windows(x, grid, prefix, side)
    maps = []
    for i, (block, rope, mask) in enumerate(zip(encoder.blocks, ropes, masks, strict=True)):
        if windows > 1 and i in config.global_blocks:
            x = x.unflatten(0, (-1, windows)).flatten(1, 2)  # [B, W * (R + p), D]
            x = block(x, mask=mask, rope=rope).unflatten(1, (windows, -1)).flatten(0, 1)
        else:
            x = block(x, mask=mask, rope=rope)
        # A depth may be tapped twice.
        for _ in range(config.taps.count(i + 1)):
            y = encoder.norm(x) if config.tap_norm else x
            maps.append(out_of_windows(y, grid, prefix, side))
    return maps if fine is None else [*maps, fine]


def check_size(size: tuple[int, int] | torch.Size, config: DetectorConfig) -> None:
    """Raises UserError unless images of (H, W) pixels divide into patches and windows."""
    height, width = size
    if height % config.divisor or width % config.divisor:
        raise UserError(
            f"Images of {height}x{width} pixels: this detector takes sides that are multiples of {config.divisor}. "
            f"The nearest size is {_nearest(height, config.divisor)}x{_nearest(width, config.divisor)}."
        )


def into_windows(x: Tensor, grid: tuple[int, int], prefix: int, side: int) -> Tensor:
    """tokens [B, R + P, D] -> [B * W, R + p, D] with W = side^2."""
    if side == 1:
        return x
    h, w = grid
    patches = x[:, prefix:].unflatten(1, (side, h // side, side, w // side))
    patches = patches.transpose(2, 3).flatten(3, 4).flatten(0, 2)  # [B * W, p, D]
    if not prefix:
        return patches
    return torch.cat([x[:, :prefix].repeat_interleave(side * side, dim=0), patches], dim=1)


def ropes_in_windows(
    ropes: Sequence[Rope | None], grid: tuple[int, int], prefix: int, config: DetectorConfig, batch: int
) -> list[Rope | None]:
    """Rotary angles, [N, d] or [H, N, d], sorted like the tokens: every patch keeps its place in the image.

    -> [B * W, H or 1, R + p, d] for a block in windows, [H or 1, W * (R + p), d] for a global block.
    """

    def table(angles: Tensor, everywhere: bool) -> Tensor:
        angles = angles if angles.ndim == 3 else angles[None]
        parts = into_windows(angles, grid, prefix, config.windows).unflatten(0, (len(angles), -1))  # [H, W, R + p, d]
        return parts.flatten(1, 2) if everywhere else parts.transpose(0, 1).repeat(batch, 1, 1, 1)

    made: dict[tuple[int, bool], Rope] = {}  # most encoders have one table for all blocks
    for i, rope in enumerate(ropes):
        key = (id(rope), i in config.global_blocks)
        if rope is not None and key not in made:
            made[key] = (table(rope[0], key[1]), table(rope[1], key[1]))
    return [made.get((id(rope), i in config.global_blocks)) for i, rope in enumerate(ropes)]


def out_of_windows(x: Tensor, grid: tuple[int, int], prefix: int, side: int) -> Tensor:
    """tokens [B * W, R + p, D] -> map [B, D, h, w]."""
    h, w = grid
    patches = x[:, prefix:].unflatten(1, (h // side, w // side)).unflatten(0, (-1, side, side))
    return patches.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _nearest(side: int, divisor: int) -> int:
    return max(divisor, round(side / divisor) * divisor)
