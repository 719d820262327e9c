"""The classifier: pooling and a linear head on the encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vit.model.attention import Attention
from vit.model.config import ClassifierConfig, EncoderConfig, changed, preset
from vit.model.encoder import Encoder, Tokens, init_weights
from vit.model.layers import Mlp, make_norm
from vit.model.linear import Linear


def create(
    name: str,
    *,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] | None = None,
    **encoder: Any,
) -> Classifier:
    """A model by name with new weights: `create("vit_s16", num_classes=10, image_size=(224, 320))`.

    image_size: (H, W), or the side of a square. `encoder`: fields of EncoderConfig (in_chans=1, drop_path=.1).
    Raises UserError on an unknown name or field and on a size that does not fit.
    """
    config = preset(name)
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        encoder["image_size"] = size
    return Classifier(replace(config, encoder=changed(config.encoder, encoder), num_classes=num_classes))


class AttentionPool(nn.Module):
    """Multi-head attention pooling (MAP; Zhai et al. 2022, section 3.2): one learned query attends to every
    token, [B, N, D] -> [B, D]."""

    def __init__(self, c: EncoderConfig, heads: int, mlp: int):
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, c.width))
        self.attn = Attention(c.width, heads)
        self.norm = make_norm(c.norm, c.width, c.eps)
        self.mlp = Mlp(c.width, mlp, c.activation)
        init_weights(self)
        nn.init.trunc_normal_(self.probe, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        query = self.probe.expand(len(x), -1, -1)
        y = self.attn(query, x, x)
        return (y + self.mlp(self.norm(y)))[:, 0]


class TwoHeads(nn.Module):
    """Class and distillation token [B, 2D] -> the mean of the logits of a linear layer each (DeiT, Touvron et al.
    2021, section 4)."""

    def __init__(self, width: int, num_classes: int, *, bias: bool = True):
        super().__init__()
        self.cls = Linear(width, num_classes, bias=bias)
        self.dist = Linear(width, num_classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        by_class, by_distillation = x.chunk(2, dim=-1)
        return (self.cls(by_class) + self.dist(by_distillation)) / 2


class Classifier(nn.Module):
    """images [B, C, H, W] -> logits [B, K], or pooled features [B, D] with num_classes = 0."""

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        c = self.config = config
        self.encoder = Encoder(c.encoder)
        e = c.encoder
        self.attn_pool = None
        if c.pool == "attention":
            self.attn_pool = AttentionPool(e, c.pool_heads or e.heads, c.pool_mlp or e.mlp)
        self.pool_norm = make_norm(e.norm, e.width, e.eps) if c.pool_norm else nn.Identity()
        self.head_drop = nn.Dropout(c.head_dropout)
        self.head = make_head(c)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.head_drop(self.pool(self.encoder(images))))

    def forward_features(self, images: Tensor) -> Tokens:
        """The encoder's tokens after its last norm."""
        return self.encoder(images)

    def pool(self, tokens: Tokens) -> Tensor:
        """Tokens -> one vector for each image, the input of the head: [B, D], or [B, 2D] where two are concatenated."""
        if self.attn_pool is not None:
            pooled = torch.cat([tokens.prefix, tokens.patches], dim=1) if self.config.pool_prefix else tokens.patches
            x = self.attn_pool(pooled)
        elif self.config.pool == "class":
            x = tokens.prefix[:, 0]
        elif self.config.pool == "mean":
            x = tokens.patches.mean(dim=1)
        elif self.config.pool == "class_mean":
            x = torch.cat([tokens.prefix[:, 0], tokens.patches.mean(dim=1)], dim=1)
        else:
            x = tokens.prefix[:, :2].flatten(1)
        return self.pool_norm(x)


def make_head(config: ClassifierConfig) -> nn.Module:
    """A new head: pooled features -> logits [B, K]; the identity where num_classes is 0."""
    c = config
    if not c.num_classes:
        return nn.Identity()
    if c.pool == "class_distill":
        head = TwoHeads(c.encoder.width, c.num_classes, bias=c.head_bias)
    else:
        head = Linear(c.features, c.num_classes, bias=c.head_bias)
    init_weights(head)
    return head
