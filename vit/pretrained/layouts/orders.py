"""Orders of channels that differ between code bases.

Rotary embedding: ours rotates the pairs (i, i + d/2) of a head; EVA-02, PE and rope-vit rotate (2i, 2i + 1). Only the
products of queries and keys matter, so permuting the channels of both alike changes nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vit.model.config import ClassifierConfig


def interleaved(name: str, tensor: Tensor, config: ClassifierConfig, writing: bool) -> Tensor:
    """Layout hook: reorders the channels of queries and keys if the model's RoPE uses row and column numbers. DINOv3's
    centered RoPE is stored in our order."""
    e = config.encoder
    if not (e.rope and e.rope_places == "grid" and name.startswith("encoder.blocks.")):
        return tensor
    width = e.width // e.heads
    if name.endswith((".q_bias", ".q_norm.weight", ".k_norm.weight", ".q_norm.bias", ".k_norm.bias")):
        return _reorder(tensor, width, writing)
    if ".attn.qkv." in name:
        q, k, v = tensor.chunk(3)
        return torch.cat([_reorder(q, width, writing), _reorder(k, width, writing), v])
    return tensor


def channels_last(name: str, tensor: Tensor, config: ClassifierConfig, writing: bool) -> Tensor:
    """Layout hook of NaFlex, which unrolls a patch as [p, p, C]; ours is [C, p, p]."""
    if name != "encoder.patch_embed.proj.weight":
        return tensor
    c, p = config.encoder.in_chans, config.encoder.patch_size
    if writing:
        return tensor.unflatten(1, (c, p, p)).permute(0, 2, 3, 1).flatten(1)
    return tensor.unflatten(1, (p, p, c)).permute(0, 3, 1, 2).flatten(1)


def _reorder(rows: Tensor, width: int, writing: bool) -> Tensor:
    """rows [H*d, ...] of one projection."""
    shape = (-1, 2, width // 2) if writing else (-1, width // 2, 2)
    return rows.unflatten(0, shape).transpose(1, 2).flatten(0, 2)
