"""The layers of a ViT block besides attention, and the block itself.

Shape letters: B batch, N tokens of the queries, M tokens of the context, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit.model.attention import NOTHING, Attention
from vit.model.config import Activation, EncoderConfig, Norm
from vit.model.linear import Linear
from vit.model.position import Rope

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "relu": F.relu,
}


def make_norm(kind: Norm, width: int, eps: float) -> nn.Module:
    return nn.LayerNorm(width, eps=eps) if kind == "layernorm" else nn.RMSNorm(width, eps=eps)


class Mlp(nn.Module):
    """Two linear layers with an activation between them, [..., D] -> [..., D]."""

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Activation,
        dropout: float = 0.0,
        *,
        bias: bool = True,
        norm: nn.Module | None = None,
    ):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.fc1 = Linear(width, hidden, bias=bias)
        self.norm = norm or NOTHING
        self.fc2 = Linear(hidden, width, bias=bias)
        self.drop = nn.Dropout(dropout) if dropout else NOTHING

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.norm(self.drop(self.activation(self.fc1(x))))))


class SwiGLU(nn.Module):
    """w3(silu(w1 x) * w2 x) (Shazeer 2020, eq. 6), [..., D] -> [..., D]; w1 and w2 are one matrix."""

    def __init__(
        self, width: int, hidden: int, dropout: float = 0.0, *, bias: bool = True, norm: nn.Module | None = None
    ):
        super().__init__()
        self.w12 = Linear(width, 2 * hidden, bias=bias)
        self.norm = norm or NOTHING
        self.w3 = Linear(hidden, width, bias=bias)
        self.drop = nn.Dropout(dropout) if dropout else NOTHING

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.drop(self.w3(self.norm(self.drop(F.silu(gate) * value))))


class LayerScale(nn.Module):
    """A learned factor per channel of a residual branch (CaiT, Touvron et al. 2021, eq. 4)."""

    def __init__(self, width: int, initial: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, the branch of a sample is dropped with probability `rate`, and
    the others are divided by 1 - rate to keep the expectation."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        return x * self._kept(x).div_(1 - self.rate)

    def rows(self, x: Tensor) -> Tensor | None:
        """The samples of x that are kept, int64 [n], drawn as in `forward`; None if all are."""
        if not self.training or self.rate == 0.0:
            return None
        kept = self._kept(x).flatten()
        return None if bool(kept.all()) else kept.nonzero()[:, 0]

    def _kept(self, x: Tensor) -> Tensor:
        return x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, optional cross-attention, feed-forward, each added to x."""

    def __init__(self, config: EncoderConfig, *, drop_path: float = 0.0, cross: bool = False):
        super().__init__()
        c = config
        self.norm1 = make_norm(c.norm, c.width, c.eps)
        self.attn = _attention(c)
        self.ls1 = _layer_scale(c)
        self.cross = _attention(c) if cross else None
        if cross:
            self.cross_norm = make_norm(c.norm, c.width, c.eps)
            self.cross_ls = _layer_scale(c)
        self.norm2 = make_norm(c.norm, c.width, c.eps)
        inner = make_norm(c.norm, c.mlp, c.eps) if c.feed_forward_norm else None
        if c.feed_forward == "swiglu":
            self.mlp = SwiGLU(c.width, c.mlp, c.dropout, bias=c.bias, norm=inner)
        else:
            self.mlp = Mlp(c.width, c.mlp, c.activation, c.dropout, bias=c.bias, norm=inner)
        self.ls2 = _layer_scale(c)
        self.drop_path = DropPath(drop_path)
        self.skips = c.skip_dropped
        self.drop = nn.Dropout(c.dropout) if c.dropout else NOTHING

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        rope: Rope | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """x [B, N, D] -> [B, N, D]; a block with cross=True attends to `context` [B, M, D]."""
        x = self._add(x, self._attention_branch, mask, rope)
        if self.cross is not None and context is not None:
            y = self.cross(self.cross_norm(x), context, context, context_mask)
            x = x + self.drop_path(self.cross_ls(self.drop(y)))
        return self._add(x, self._mlp_branch)

    def _attention_branch(self, x: Tensor, mask: Tensor | None, rope: Rope | None) -> Tensor:
        y = self.norm1(x)
        return self.ls1(self.drop(self.attn(y, y, y, mask, rope)))

    def _mlp_branch(self, x: Tensor) -> Tensor:
        return self.ls2(self.mlp(self.norm2(x)))

    def _add(self, x: Tensor, branch: Callable[..., Tensor], *args: Tensor | Rope | None) -> Tensor:
        """x + branch(x, *args), for the samples whose branch is not dropped."""
        if not self.skips or (rows := self.drop_path.rows(x)) is None:
            return x + self.drop_path(branch(x, *args))
        factor = 1 / (1 - self.drop_path.rate)
        if not len(rows):
            # Other processes wait for a gradient of every parameter: here it is 0.
            rows, factor = rows.new_zeros(1), 0.0
        y = branch(x[rows], *(_rows_of(arg, rows, len(x)) for arg in args))
        x = x.to(torch.promote_types(x.dtype, y.dtype))
        return x.index_add(0, rows, y.to(x.dtype), alpha=factor)


def _rows_of(arg: Tensor | Rope | None, rows: Tensor, batch: int) -> Any:
    """The rows of an argument that has one for each of `batch` samples; an argument shared by all is unchanged."""
    if isinstance(arg, tuple):
        return tuple(_rows_of(part, rows, batch) for part in arg)
    return arg[rows] if arg is not None and arg.ndim == 4 and len(arg) == batch > 1 else arg


def _attention(c: EncoderConfig) -> Attention:
    return Attention(
        c.width,
        c.heads,
        qkv_bias=c.qkv_bias,
        bias=c.bias,
        qk_norm=c.qk_norm,
        inner_norm=c.attention_norm,
        norm=partial(make_norm, c.norm, eps=c.eps),
        dropout=c.attention_dropout,
    )


def _layer_scale(c: EncoderConfig) -> nn.Module:
    return NOTHING if c.layer_scale is None else LayerScale(c.width, c.layer_scale)
