"""DINOv2 and DINOv3 as their authors publish them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vit.model.config import ClassifierConfig
from vit.pretrained.layouts.rules import Layout, Row
from vit.pretrained.layouts.timm import ATTENTION, LAYER_SCALE, MLP, STEM, TOP, VIT

PACKED: tuple[Row, ...] = (("encoder.blocks.#.mlp.w12.*", "blocks.#.mlp.w12.*"),)
SPLIT: tuple[Row, ...] = (("encoder.blocks.#.mlp.w12.*", "blocks.#.mlp.{w1,w2}.*"),)
W3: tuple[Row, ...] = (("encoder.blocks.#.mlp.w3.*", "blocks.#.mlp.w3.*"),)
DINOV2 = Layout(
    "DINOv2 (original)",
    (*STEM, *ATTENTION, *PACKED, *W3, *MLP, *LAYER_SCALE, *TOP),
    (VIT, "mask_token", "pos_embed", "blocks.0.ls1.gamma"),
    never=("register_tokens",),
    left_out={"mask_token": "for pre-training only"},
    resize="offset",
)
DINOV2_REGISTERS = Layout(
    "DINOv2 with registers (original)",
    (("encoder.reg_token", "register_tokens"), *STEM, *ATTENTION, *PACKED, *W3, *MLP, *LAYER_SCALE, *TOP),
    (VIT, "mask_token", "pos_embed", "register_tokens"),
    left_out=DINOV2.left_out,
)


def _without_key_bias(name: str, tensor: Tensor, config: ClassifierConfig, writing: bool) -> Tensor:
    """The stored bias covers queries, keys and values, and is multiplied by a mask that is 0 (stored as NaN or 0) for
    the keys."""
    if not name.endswith("attn.qkv.bias"):
        return tensor
    if writing:
        q, v = tensor.chunk(2)
        return torch.cat([q, torch.zeros_like(q), v])
    q, _, v = tensor.chunk(3)
    return torch.cat([q, v])


DINOV3 = Layout(
    "DINOv3 (original)",
    (
        ("encoder.reg_token", "storage_tokens"),
        *STEM,
        ("encoder.blocks.#.attn.{q_bias,v_bias}", "blocks.#.attn.qkv.bias"),
        ("encoder.blocks.#.attn.qkv.weight", "blocks.#.attn.qkv.weight"),
        *(row for row in ATTENTION if "qkv" not in row[0]),
        *SPLIT,
        *W3,
        *MLP,
        *LAYER_SCALE,
        *TOP,
    ),
    (VIT, "storage_tokens", "rope_embed.periods"),
    left_out={
        "rope_embed.periods": "computed, and rounded to bfloat16 as they are stored",
        "blocks.*.attn.qkv.bias_mask": "keys have no bias here",
        "mask_token": "for pre-training only",
        "local_cls_norm.*": "for pre-training only",
    },
    theirs=_without_key_bias,
    adapt=lambda config, names: dataclasses.replace(
        config, encoder=dataclasses.replace(config.encoder, rope_bf16=True)
    ),
)
