"""The attention of encoder and decoder, by torch's scaled dot-product attention or, where that is slow, in steps.

Shape letters: B batch, H heads, N tokens of the queries, M tokens of the keys, D width, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit.model.linear import Linear, linear
from vit.model.position import Rope, rotate

MOST_SCORES = 1 << 19
"""Most scores N * M of a head that `step_by_step` may keep in memory."""
SLOW_FORWARD = torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()  # pyright: ignore
"""Whether the CPU multiplies bfloat16 with vector instructions only, which torch's attention does not use."""
NOTHING = nn.Identity()
"""Shared wherever a model has no norm, LayerScale or dropout: making a module takes 20 us."""
LAYER_NORM = partial(nn.LayerNorm, eps=1e-6)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, eq. 1) over `scaled_dot_product_attention`.

    Self-attention, a decoder's self-attention with positions on q and k only, and dense cross-attention are all this
    class. Where q, k and v are the same object, they are projected in one matrix product.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        qkv_bias: bool | Literal["qv"] = True,
        bias: bool = True,
        qk_norm: bool = False,
        inner_norm: bool = False,
        norm: Callable[[int], nn.Module] = LAYER_NORM,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = Linear(width, 3 * width, bias=qkv_bias is True)
        self.q_bias = nn.Parameter(torch.zeros(width)) if qkv_bias == "qv" else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if qkv_bias == "qv" else None
        self.q_norm = norm(width // heads) if qk_norm else NOTHING
        self.k_norm = norm(width // heads) if qk_norm else NOTHING
        self.inner_norm = norm(width) if inner_norm else NOTHING
        self.proj = Linear(width, width, bias=bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, rope: Rope | None = None) -> Tensor:
        """q [B, N, D], k and v [B, M, D] -> [B, N, D].

        mask: broadcast to [B, heads, N, M]; bool (True takes part) or float (added to the scores).
        rope: cos and sin, broadcast to [B, heads, N, d], that rotate q and k, which then have equally many tokens.
        """
        q, k, v = self.by_head(q, k, v, rope)
        return self.joined(attend(q, k, v, mask, self.dropout if self.training else 0.0))

    def by_head(self, q: Tensor, k: Tensor, v: Tensor, rope: Rope | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The first half: -> q [B, heads, N, d], k and v [B, heads, M, d], normalized and rotated."""
        q, k, v = self._project(q, k, v)
        q, k = self.q_norm(q), self.k_norm(k)
        return (q, k, v) if rope is None else (rotate(q, rope), rotate(k, rope), v)

    def joined(self, x: Tensor) -> Tensor:
        """The last part: the output of the heads [B, heads, N, d] -> [B, N, D]."""
        return self.proj(self.inner_norm(x.transpose(1, 2).flatten(2)))

    def _project(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if q is k and k is v:
            x = self.qkv(q)
            if self.q_bias is not None and self.v_bias is not None:
                x = x + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
            # unbind, not three selections: its gradient is one stack instead of three sums over zeros.
            q, k, v = x.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            return q, k, v
        weights = self.qkv.weight.chunk(3)
        biases = self.qkv.bias.chunk(3) if self.qkv.bias is not None else (self.q_bias, None, self.v_bias)
        return tuple(  # pyright: ignore[reportReturnType]
            linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((q, k, v), weights, biases, strict=True)
        )


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: q [B, H, N, d], k and v [B, H, M, d] -> [B, H, N, d].

    mask: broadcast to [B, H, N, M]; bool (True takes part) or float (added to the scores). A query with no key left
    gets 0.
    """
    if _is_slow(q, k, v):
        return step_by_step(q, k, v, mask, dropout)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def step_by_step(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """The same with the scores [B, H, N, M] in memory."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    empty = None
    if mask is not None:
        bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else mask
        # The softmax of nothing but -inf is NaN, and so would its gradient be.
        empty = (bias == -math.inf).all(-1, keepdim=True)
        scores = scores + bias.masked_fill(empty, 0)
    weights = scores.softmax(-1).to(v.dtype)
    y = (F.dropout(weights, dropout) if dropout else weights) @ v
    return y if empty is None else y.masked_fill(empty, 0)


def _is_slow(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether torch's attention is slower than `step_by_step`, in bfloat16 on a CPU (benchmarks/LOG.md). With AMX its
    forward pass is faster; its backward pass takes 6 times as long at 17 tokens, 1.6 times at 197, and no longer at
    1,025, where the scores would take several times the memory. Without AMX both passes are slow."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or q.shape[-2] * k.shape[-2] > MOST_SCORES:
        return False
    return SLOW_FORWARD or q.requires_grad or k.requires_grad or v.requires_grad
