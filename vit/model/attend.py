"""Scaled dot-product attention: torch's, and step by step where torch's is slow.

Letters: B batch, H heads, N queries, M keys, d head width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_SCORES = 1 << 19
"""Of a head, N * M: more are not kept in memory."""
SLOW_FORWARD = torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()  # pyright: ignore
"""Whether bfloat16 is multiplied by vectors, which torch's attention makes no use of."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: q [B, H, N, d], k and v [B, H, M, d] -> [B, H, N, d].

    mask: broadcast to [B, H, N, M]; bool (True takes part) or float (added to the scores). A query that no key takes
    part for gets 0.
    """
    if _is_slow(q, k, v):
        return step_by_step(q, k, v, mask, dropout)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def step_by_step(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """The same with the scores [B, H, N, M] in memory."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    alone = None
    if mask is not None:
        bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else mask
        # The softmax of nothing but -inf is NaN, and so would its gradient be.
        alone = (bias == -math.inf).all(-1, keepdim=True)
        scores = scores + bias.masked_fill(alone, 0)
    shares = scores.softmax(-1).to(v.dtype)
    y = (F.dropout(shares, dropout) if dropout else shares) @ v
    return y if alone is None else y.masked_fill(alone, 0)


def _is_slow(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether torch's takes longer than `step_by_step` in bfloat16 on a CPU (benchmarks/LOG.md). With AMX its forward
    pass is the faster one, and its backward pass takes 6 times as long at 17 tokens, 1.6 at 197, but no longer at
    1,025, where the scores would take several times the memory. Without AMX both are slow."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or q.shape[-2] * k.shape[-2] > MOST_SCORES:
        return False
    return SLOW_FORWARD or q.requires_grad or k.requires_grad or v.requires_grad
