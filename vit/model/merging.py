"""Token merging for inference (ToMe, Bolya et al. 2023): in each block, the most similar tokens of an image become one,
so that later blocks are faster. Nothing is trained; accuracy drops a little (README, "Speed").

    merging(model, 8)        # in each block 8 tokens are merged into others
    merging(model, 0)        # as before

Letters: B batch, N tokens, R prefix tokens, D width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vit.errors import UserError
from vit.model.attention import attend
from vit.model.classifier import Classifier
from vit.model.encoder import Encoder, Tokens
from vit.model.layers import Block


def merging(model: Classifier, count: int) -> Classifier:
    """Make `model` merge `count` tokens in each block in evaluation mode; returns the model.

    Raises UserError where blocks use the places of tokens (rotary or relative positions), which merged tokens lack, and
    where the head attends to the patches.
    """
    c = model.config.encoder
    if count < 0:
        raise UserError(f"Token merging takes 0 or more tokens in each block, not {count}.")
    if count and (c.rope or c.relative_positions):
        raise UserError(
            "Token merging needs a model whose positions are added to its tokens, not rotary or relative ones."
        )
    if count and model.config.pool not in ("class", "mean", "class_mean", "class_distill"):
        raise UserError(f"Token merging does not go with pool={model.config.pool}.")
    model.encoder.merging = None if count == 0 else Merging(count)
    return model


class Merging:
    """Runs the blocks in `Encoder.forward`. Fewer patches come out; each is scaled by its size over the mean size, so
    that the mean over them weighs every part of the image alike."""

    def __init__(self, count: int):
        self.count = count

    def __call__(self, encoder: Encoder, x: Tensor, grid: tuple[int, int]) -> Tokens:
        """x [B, N, D]: the input of the first block."""
        prefix = encoder.config.prefix
        size = torch.ones_like(x[:, :, :1])  # [B, N, 1]: how many patches each token stands for
        for block in encoder.blocks:
            x, size = merged_block(block, x, size, self.count, prefix)  # pyright: ignore[reportArgumentType]
        x, size = encoder.norm(x), size[:, prefix:]
        patches = x[:, prefix:] * (size / size.mean(dim=1, keepdim=True))
        return Tokens(x[:, :prefix], patches, grid)


def merged_block(block: Block, x: Tensor, size: Tensor, count: int, prefix: int) -> tuple[Tensor, Tensor]:
    """A block in evaluation with a merge between attention and feed-forward; x and the sizes [B, N, 1] afterwards.

    A key counts once for each patch that its token stands for, by log(size) added to its scores (proportional
    attention).
    """
    y = block.norm1(x)
    q, k, v = block.attn.by_head(y, y, y)
    mask = size.log().transpose(1, 2)[:, None].to(q.dtype)  # [B, 1, 1, N]
    x = x + block.ls1(block.attn.joined(attend(q, k, v, mask)))
    merge = matching(k.mean(dim=1), count, prefix)
    if merge is not None:
        x, size = merge(x * size), merge(size)
        x = x / size
    return x + block.ls2(block.mlp(block.norm2(x))), size


def matching(keys: Tensor, count: int, prefix: int) -> Callable[[Tensor], Tensor] | None:
    """Bipartite soft matching (Bolya et al. 2023, section 3.1): patches are split into two sets, each of the first
    finds the one in the second with the most similar key, and the `count` best pairs become one token each.

    keys [B, N, d] -> a function that sums values [B, N, ...] over merged tokens, [B, N - count, ...], prefix first;
    None where nothing is left to merge.
    """
    patches = keys.shape[1] - prefix
    count = min(count, patches // 2)
    if count <= 0:
        return None
    k = keys[:, prefix:]
    k = k / k.norm(dim=-1, keepdim=True)
    similarity = k[:, ::2] @ k[:, 1::2].transpose(1, 2)  # [B, first, second]
    best, partner = similarity.max(dim=-1)
    order = best.argsort(dim=-1, descending=True)
    merged, kept = order[:, :count], order[:, count:].sort(dim=-1).values
    partner = partner.gather(1, merged)

    def merge(values: Tensor) -> Tensor:
        first, second = values[:, prefix::2], values[:, prefix + 1 :: 2]
        width = values.shape[-1]

        def of(index: Tensor) -> Tensor:
            return index[..., None].expand(-1, -1, width)

        second = second.scatter_add(1, of(partner), first.gather(1, of(merged)))
        return torch.cat([values[:, :prefix], first.gather(1, of(kept)), second], dim=1)

    return merge
