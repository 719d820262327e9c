"""The parts of a ViT: patch embedding, the one attention, feed-forward, and the block that joins them.

Shape letters: B batch, N tokens of the queries, M tokens of the context, D width, d head width, P patches,
C image channels, p patch side.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit.config import Activation, EncoderConfig, Norm
from vit.position import Rope, rotate

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "relu": F.relu,
}

NOTHING = nn.Identity()
"""One for all places where a model has no norm, no LayerScale or no dropout: a module takes 20 us to make."""


def make_norm(kind: Norm, width: int, eps: float) -> nn.Module:
    return nn.LayerNorm(width, eps=eps) if kind == "layernorm" else nn.RMSNorm(width, eps=eps)


class LinearPatches(nn.Module):
    """Images [B, C, H, W] -> patches [B, P, D] by one matrix product: a convolution with stride p, without
    the convolution's overhead. H and W are multiples of p."""

    def __init__(self, in_chans: int, patch_size: int, width: int, *, bias: bool = True):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(in_chans * patch_size**2, width, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        p = self.patch_size
        x = images.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # [B, C, h, p, w, p]
        return self.proj(x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))


class ConvPatches(nn.Module):
    """The same by 3x3 convolutions, batch norm and ReLU that double the width whenever they halve the side ("early
    convolutions", Xiao et al. 2021): one at stride 2, then one at stride 1 and one at stride 2 for every further
    halving, then a linear layer to width D. The patch size is a power of two.

    Local detail and overlap, which a linear patch must learn from data, are built in: what small data needs. No
    convolution runs at full resolution, where it would cost most (benchmarks/digits.md).
    """

    LAST = 6
    """Modules of `convs` from the last halving but one to the last: two convolutions, each with norm and ReLU."""

    def __init__(self, in_chans: int, patch_size: int, width: int, *, bias: bool = True):
        super().__init__()
        halvings = patch_size.bit_length() - 1
        layers: list[nn.Module] = []
        before = in_chans
        for i in range(halvings):
            after = max(16, width >> (halvings - 1 - i))
            for stride in (2,) if i == 0 else (1, 2):
                conv = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
                before = after
        self.convs = nn.Sequential(*layers)
        self.proj = nn.Linear(before, width, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.coarse(self.fine(images))

    def fine(self, images: Tensor) -> Tensor:
        """The first part, to a map of patches of half the side: [B, C, H, W] -> [B, D'/2, 2h, 2w]."""
        return self.convs[: -self.LAST](images.contiguous(memory_format=torch.channels_last))

    def coarse(self, fine: Tensor) -> Tensor:
        """The rest: what `fine` gives -> patches [B, P, D]."""
        x = self.convs[-self.LAST :](fine)  # [B, D', h, w]
        return self.proj(x.flatten(2).transpose(1, 2))


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, eq. 1) over `scaled_dot_product_attention`.

    Self-attention, a decoder's self-attention with positions on q and k only, and dense cross-attention are
    this one class: the same object passed twice is projected once, in one matrix product.
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
        norm: Norm = "layernorm",
        eps: float = 1e-6,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias is True)
        self.q_bias = nn.Parameter(torch.zeros(width)) if qkv_bias == "qv" else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if qkv_bias == "qv" else None
        self.q_norm = make_norm(norm, width // heads, eps) if qk_norm else NOTHING
        self.k_norm = make_norm(norm, width // heads, eps) if qk_norm else NOTHING
        self.inner_norm = make_norm(norm, width, eps) if inner_norm else NOTHING
        self.proj = nn.Linear(width, width, bias=bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, rope: Rope | None = None) -> Tensor:
        """q [B, N, D], k and v [B, M, D] -> [B, N, D].

        mask: broadcast to [B, heads, N, M]; bool (True takes part) or float (added to the scores).
        rope: cos and sin, broadcast to [B, heads, N, d], turned into q and k, which have the same number of tokens.
        """
        q, k, v = self._project(q, k, v)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.proj(self.inner_norm(x.transpose(1, 2).flatten(2)))

    def _project(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> q [B, heads, N, d], k and v [B, heads, M, d]."""
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
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((q, k, v), weights, biases, strict=True)
        )


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
        self.fc1 = nn.Linear(width, hidden, bias=bias)
        self.norm = norm or NOTHING
        self.fc2 = nn.Linear(hidden, width, bias=bias)
        self.drop = nn.Dropout(dropout) if dropout else NOTHING

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.norm(self.drop(self.activation(self.fc1(x))))))


class SwiGLU(nn.Module):
    """w3(silu(w1 x) * w2 x) (Shazeer 2020, eq. 6), with w1 and w2 in one matrix, [..., D] -> [..., D]."""

    def __init__(
        self, width: int, hidden: int, dropout: float = 0.0, *, bias: bool = True, norm: nn.Module | None = None
    ):
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden, bias=bias)
        self.norm = norm or NOTHING
        self.w3 = nn.Linear(hidden, width, bias=bias)
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
    """Stochastic depth (Huang et al. 2016): in training a sample's branch is dropped with probability `rate`
    and the others divided by 1 - rate, so that the expectation stays."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        kept = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * kept.div_(1 - self.rate)


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
        """x [B, N, D] -> [B, N, D]; `context` [B, M, D] is what a block with cross=True looks at."""
        y = self.norm1(x)
        x = x + self.drop_path(self.ls1(self.drop(self.attn(y, y, y, mask, rope))))
        if self.cross is not None and context is not None:
            y = self.cross(self.cross_norm(x), context, context, context_mask)
            x = x + self.drop_path(self.cross_ls(self.drop(y)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


def _attention(c: EncoderConfig) -> Attention:
    return Attention(
        c.width,
        c.heads,
        qkv_bias=c.qkv_bias,
        bias=c.bias,
        qk_norm=c.qk_norm,
        inner_norm=c.attention_norm,
        norm=c.norm,
        eps=c.eps,
        dropout=c.attention_dropout,
    )


def _layer_scale(c: EncoderConfig) -> nn.Module:
    return NOTHING if c.layer_scale is None else LayerScale(c.width, c.layer_scale)
