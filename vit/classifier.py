"""Pooling and a linear layer on the encoder."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vit.config import ClassifierConfig, EncoderConfig, changed, preset
from vit.encoder import Encoder, Tokens, init_weights
from vit.layers import Attention, Mlp, make_norm


def create(
    name: str,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    trust_pickle: bool = False,
    **encoder: Any,
) -> Classifier:
    """A model by name, with new weights: `create("vit_s16", num_classes=10, image_size=(224, 320))`, or somebody's:
    `create("dinov2_s14", weights="hf:facebook/dinov2-small")`. `vit.models()` lists the names.

    weights: a .safetensors, .pth, .npz or .onnx file, a checkpoint folder, `timm:NAME` or `hf:OWNER/REPO`.
    num_classes: 1000 for a new model; with weights, None keeps the head they have (and 0 takes it off).
    image_size: (H, W), or the side of a square. `encoder`: fields of EncoderConfig (in_chans=1, patch_size=8,
    drop_path=.1). What had to be changed in the weights is said on the log `vitral`.
    Raises UserError on a name, a field or a size that does not exist, and on weights that do not fit.
    """
    if weights is not None:
        from vit.pretrained.load import load

        loaded = load(
            name, weights, num_classes=num_classes, image_size=image_size, trust_pickle=trust_pickle, **encoder
        )
        for note in loaded.notes:
            _log.warning("%s: %s", weights, note)
        return loaded.model
    config = _config_of(name)
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        encoder["image_size"] = size
    classes = 1000 if num_classes is None else num_classes
    return Classifier(replace(config, encoder=changed(config.encoder, encoder), num_classes=classes))


def _config_of(name: str) -> ClassifierConfig:
    """Of a new model: our own presets, or the architecture of a public family."""
    if name.startswith("vit_"):
        return preset(name)
    from vit.pretrained.families import find

    return find(name).config


_log = logging.getLogger("vitral")


class AttentionPool(nn.Module):
    """Multi-head attention pooling (MAP; Zhai et al. 2022, section 3.2): one learned query looks at every
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
        self.cls = nn.Linear(width, num_classes, bias=bias)
        self.dist = nn.Linear(width, num_classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        by_class, by_distillation = x.chunk(2, dim=-1)
        return (self.cls(by_class) + self.dist(by_distillation)) / 2


class Classifier(nn.Module):
    """images [B, C, H, W] -> logits [B, K]. With num_classes = 0 the pooled features [B, D] come out."""

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
        """Tokens -> one vector an image, as the head sees it: [B, D], or [B, 2D] where two are put side by side."""
        if self.attn_pool is not None:
            seen = torch.cat([tokens.prefix, tokens.patches], dim=1) if self.config.pool_prefix else tokens.patches
            x = self.attn_pool(seen)
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
        head = nn.Linear(c.features, c.num_classes, bias=c.head_bias)
    init_weights(head)
    return head
