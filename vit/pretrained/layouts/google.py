"""Google's .npz files: vit_jax (ViT, AugReg) and big_vision (scan-stacked or not, MAP head), in flax's conventions.

Flax multiplies from the right: kernels are [in, out], and those of attention [D, H, d] (query, key, value) or
[H, d, D] (out). A patch kernel is [p, p, C, D].
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vit.model.config import ClassifierConfig
from vit.pretrained.files.source import Source
from vit.pretrained.layouts.orders import channels_last
from vit.pretrained.layouts.rules import Layout, Row


def _flax(name: str, tensor: Tensor, config: ClassifierConfig, writing: bool) -> Tensor:
    leaf = name.rsplit("/", 2)[-2:]
    if writing:
        return _to_flax(name, leaf, tensor, config)
    if leaf == ["embedding", "kernel"]:
        return tensor.permute(3, 2, 0, 1)
    if leaf[-1] == "kernel":
        flat = tensor.flatten(0, -2) if leaf[0] == "out" else tensor.reshape(tensor.shape[0], -1)
        return flat.T
    return tensor.flatten() if leaf[0] in ("query", "key", "value") else tensor


def _to_flax(name: str, leaf: list[str], tensor: Tensor, config: ClassifierConfig) -> Tensor:
    heads = config.pool_heads if "MAPHead" in name and config.pool_heads else config.encoder.heads
    if leaf == ["embedding", "kernel"]:
        return tensor.permute(2, 3, 1, 0)
    if leaf[-1] == "kernel":
        tensor = tensor.T
        if leaf[0] == "out":
            return tensor.unflatten(0, (heads, -1))
        return tensor.unflatten(1, (heads, -1)) if leaf[0] in ("query", "key", "value") else tensor
    return tensor.unflatten(0, (heads, -1)) if leaf[0] in ("query", "key", "value") else tensor


def _rows(attention: str, norm1: str, norm2: str, mlp: str, position: str) -> tuple[Row, ...]:
    block, ours = "Transformer/encoderblock_#/", "encoder.blocks.#."
    rows: list[Row] = [
        ("encoder.cls_token", "cls"),
        ("encoder.pos_embed", position),
        ("encoder.patch_embed.proj.weight", "embedding/kernel", "conv"),
        ("encoder.patch_embed.proj.bias", "embedding/bias"),
        ("encoder.norm.weight", "Transformer/encoder_norm/scale"),
        ("encoder.norm.bias", "Transformer/encoder_norm/bias"),
        ("head.weight", "head/kernel"),
        ("head.bias", "head/bias"),
        ("attn_pool.probe", "MAPHead_0/probe"),
        ("attn_pool.norm.weight", "MAPHead_0/LayerNorm_0/scale"),
        ("attn_pool.norm.bias", "MAPHead_0/LayerNorm_0/bias"),
    ]
    pool = "MAPHead_0/"
    for flax, torch_name in (("kernel", "weight"), ("bias", "bias")):
        for where, to, att, feed in (
            (block, ours, attention, mlp),
            (pool, "attn_pool.", "MultiHeadDotProductAttention_0", "MlpBlock_0"),
        ):
            rows += [
                (f"{to}attn.qkv.{torch_name}", f"{where}{att}/{{query,key,value}}/{flax}"),
                (f"{to}attn.proj.{torch_name}", f"{where}{att}/out/{flax}"),
                (f"{to}mlp.fc1.{torch_name}", f"{where}{feed}/Dense_0/{flax}"),
                (f"{to}mlp.fc2.{torch_name}", f"{where}{feed}/Dense_1/{flax}"),
            ]
    for flax, torch_name in (("scale", "weight"), ("bias", "bias")):
        rows += [
            (f"{ours}norm1.{torch_name}", f"{block}{norm1}/{flax}"),
            (f"{ours}norm2.{torch_name}", f"{block}{norm2}/{flax}"),
        ]
    return tuple(rows)


def _tanh(config: ClassifierConfig, names: set[str]) -> ClassifierConfig:
    """Flax's GELU defaults to the tanh approximation, which both code bases use."""
    return _encoder(config, activation="gelu_tanh")


def _encoder(config: ClassifierConfig, **fields: Any) -> ClassifierConfig:
    return replace(config, encoder=replace(config.encoder, **fields))


VIT_JAX = Layout(
    "Google .npz (vit_jax)",
    _rows(
        "MultiHeadDotProductAttention_1",
        "LayerNorm_0",
        "LayerNorm_2",
        "MlpBlock_3",
        "Transformer/posembed_input/pos_embedding",
    ),
    ("Transformer/encoderblock_0/LayerNorm_2/scale", "embedding/kernel"),
    never=("pre_logits/kernel",),
    resize="zoom",
    theirs=_flax,
    adapt=_tanh,
)
VIT_JAX_PRETRAINED = replace(
    VIT_JAX,
    name="Google .npz (vit_jax, pre-trained)",
    rows=tuple(row for row in VIT_JAX.rows if not row[0].startswith("head.")),
    marks=(*VIT_JAX.marks, "pre_logits/kernel"),
    never=(),
    left_out={
        "pre_logits/*": "a tanh layer between the class token and the head, of pre-training only",
        "head/*": "the head behind that layer",
    },
)
BIG_VISION = Layout(
    "Google .npz (big_vision)",
    _rows("MultiHeadDotProductAttention_0", "LayerNorm_0", "LayerNorm_1", "MlpBlock_0", "pos_embedding"),
    ("Transformer/encoderblock_0/LayerNorm_1/scale", "embedding/kernel"),
    left_out={"/*": "the text tower and the temperature of the loss"},
    resize="zoom",
    theirs=_flax,
    adapt=_tanh,
)


def _naflex(name: str, tensor: Tensor, config: ClassifierConfig, writing: bool) -> Tensor:
    """NaFlex has a dense patch kernel [p*p*C, D] and positions as a grid [h, w, D]."""
    if name == "embedding/kernel":
        return tensor.T
    if name == "pos_embedding":
        return tensor.unflatten(1, config.encoder.grid)[0] if writing else tensor.flatten(0, 1)[None]
    return _flax(name, tensor, config, writing)


NAFLEX = replace(
    BIG_VISION,
    name="Google .npz (big_vision's NaFlex)",
    rows=tuple(row[:2] if row[1] == "embedding/kernel" else row for row in BIG_VISION.rows),
    resize="bilinear",
    theirs=_naflex,
    ours=channels_last,
)
FLEXIVIT = replace(
    BIG_VISION,
    name="Google .npz (big_vision's FlexiViT)",
    resize="bilinear",
    adapt=lambda config, names: _encoder(config, activation="gelu_tanh", kernel_resize="bilinear"),
)


def unstack(source: Source) -> Source:
    """Split big_vision's scanned blocks (`encoderblock/...` with the depth as first axis) into one tensor for each
    block. The prefix of the keys, `params/` (and `img/` beside a text tower), is kept."""
    marker = "Transformer/encoderblock/"
    if not any(marker in name for name in source.shapes):
        return source
    tensors: dict[str, Tensor] = {}
    for name in source.shapes:
        value = source.get(name)
        if marker in name:
            for i, part in enumerate(torch.unbind(value)):
                tensors[name.replace(marker, f"Transformer/encoderblock_{i}/")] = part
        else:
            tensors[name] = value
    return Source.of(tensors, source.name)
