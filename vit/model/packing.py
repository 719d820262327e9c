"""Images of different sizes in one sequence (NaViT, Dehghani et al. 2023): their tokens are concatenated, the linear
layers process all at once, and attention stays within each image.

    tokens = packed(model.encoder, [torch.randn(3, 224, 160), torch.randn(3, 96, 96)])
    logits = torch.cat([model.head(model.pool(t)) for t in tokens])

Letters: N_i tokens of image i, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vit.errors import UserError
from vit.model.attention import attend
from vit.model.encoder import Encoder, Tokens
from vit.model.layers import Block
from vit.model.position import Rope


def packed(encoder: Encoder, images: Sequence[Tensor]) -> list[Tokens]:
    """images [C, H_i, W_i], normalized -> the tokens of each, B = 1, as `encoder(image[None])` gives them.

    Raises UserError for no images, and in training with drop_path or patch_dropout, which work on whole rows.
    """
    c = encoder.config
    if not len(images):
        raise UserError("The function packed() got no images.")
    if encoder.training and (c.drop_path or c.patch_dropout):
        raise UserError(
            "The function packed() trains without drop_path and patch_dropout: a row holds several images here."
        )
    embedded = [encoder.embed(image[None]) for image in images]
    lengths, grids = [x.shape[1] for x, _ in embedded], [grid for _, grid in embedded]
    x = torch.cat([x for x, _ in embedded], dim=1)  # [1, sum of N_i, D]
    ropes = [encoder.ropes(grid, x.device) for grid in grids]
    masks = [encoder.masks(grid, x.device) for grid in grids]
    for i, block in enumerate(encoder.blocks):
        rope = _side_by_side([r[i] for r in ropes])
        x = packed_block(block, x, lengths, [m[i] for m in masks], rope)  # pyright: ignore[reportArgumentType]
    parts = encoder.norm(x).split(lengths, dim=1)
    return [Tokens(p[:, : c.prefix], p[:, c.prefix :], grid) for p, grid in zip(parts, grids, strict=True)]


def packed_block(
    block: Block, x: Tensor, lengths: list[int], masks: Sequence[Tensor | None], rope: Rope | None = None
) -> Tensor:
    """x [1, sum of N_i, D] through a block whose attention is block-diagonal, with a mask for each image.

    Attention is computed image by image: with a mask over the whole sequence it would be quadratic in the sum.
    """
    y = block.norm1(x)
    heads = block.attn.by_head(y, y, y, rope)
    dropout = block.attn.dropout if block.training else 0.0
    parts = zip(*(t.split(lengths, dim=2) for t in heads), masks, strict=True)
    y = torch.cat([attend(q, k, v, mask, dropout) for q, k, v, mask in parts], dim=2)
    x = x + block.ls1(block.drop(block.attn.joined(y)))
    return x + block.ls2(block.mlp(block.norm2(x)))


def _side_by_side(ropes: Sequence[Rope | None]) -> Rope | None:
    """The angles [N_i, d] or [H, N_i, d] of all images in one table."""
    tables = [rope for rope in ropes if rope is not None]
    return (torch.cat([t[0] for t in tables], dim=-2), torch.cat([t[1] for t in tables], dim=-2)) if tables else None
