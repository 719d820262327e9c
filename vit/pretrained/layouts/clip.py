"""Image towers of OpenAI CLIP and OpenCLIP, and Meta's Perception Encoder, which goes by the same names."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from vit.model.config import ClassifierConfig
from vit.pretrained.layouts.orders import interleaved
from vit.pretrained.layouts.rules import Layout, Row


def _hook(name: str, tensor: Tensor, config: ClassifierConfig, writing: bool) -> Tensor:
    """The projection [D, K] is applied from the right; channels of queries and keys as in `interleaved`."""
    return tensor.T if name == "head.weight" else interleaved(name, tensor, config, writing)


ROWS: tuple[Row, ...] = (
    ("encoder.cls_token", "class_embedding", "flat"),
    ("encoder.pos_embed", "positional_embedding", "flat"),
    ("encoder.patch_embed.proj.weight", "conv1.weight", "conv"),
    ("encoder.norm_pre.*", "ln_pre.*"),
    ("encoder.blocks.#.norm1.*", "transformer.resblocks.#.ln_1.*"),
    ("encoder.blocks.#.attn.qkv.weight", "transformer.resblocks.#.attn.in_proj_weight"),
    ("encoder.blocks.#.attn.qkv.bias", "transformer.resblocks.#.attn.in_proj_bias"),
    ("encoder.blocks.#.attn.proj.*", "transformer.resblocks.#.attn.out_proj.*"),
    ("encoder.blocks.#.ls1.gamma", "transformer.resblocks.#.ls_1.gamma"),
    ("encoder.blocks.#.norm2.*", "transformer.resblocks.#.ln_2.*"),
    ("encoder.blocks.#.mlp.fc1.*", "transformer.resblocks.#.mlp.c_fc.*"),
    ("encoder.blocks.#.mlp.fc2.*", "transformer.resblocks.#.mlp.c_proj.*"),
    ("encoder.blocks.#.ls2.gamma", "transformer.resblocks.#.ls_2.gamma"),
    ("encoder.norm.*", "ln_post.*"),
    ("attn_pool.probe", "attn_pool.probe"),
    ("attn_pool.attn.qkv.weight", "attn_pool.attn.in_proj_weight"),
    ("attn_pool.attn.qkv.bias", "attn_pool.attn.in_proj_bias"),
    ("attn_pool.attn.proj.*", "attn_pool.attn.out_proj.*"),
    ("attn_pool.norm.*", "attn_pool.layernorm.*"),
    ("attn_pool.mlp.fc1.*", "attn_pool.mlp.c_fc.*"),
    ("attn_pool.mlp.fc2.*", "attn_pool.mlp.c_proj.*"),
    ("head.weight", "proj"),
)
CLIP = Layout(
    "CLIP image tower (OpenAI, OpenCLIP)",
    ROWS,
    ("conv1.weight", "transformer.resblocks.0.attn.in_proj_weight", "ln_pre.weight"),
    never=("attn_pool.*",),
    left_out={"/*": "the text tower"},
    ours=_hook,
)


def _as_numbered(config: ClassifierConfig, names: set[str]) -> ClassifierConfig:
    """The original uses the row and column numbers of any grid unscaled; timm scales them to the native grid."""
    return replace(config, encoder=replace(config.encoder, rope_reference=None))


PE = Layout(
    "Perception Encoder (original)",
    ROWS,
    ("conv1.weight", "transformer.resblocks.0.attn.in_proj_weight", "ln_pre.weight", "attn_pool.probe"),
    left_out={"/*": "the text tower"},
    resize="plain_bilinear",
    ours=_hook,
    adapt=_as_numbered,
)
PE_SPATIAL = replace(CLIP, name="Perception Encoder, spatial (original)", resize="plain_bilinear", adapt=_as_numbered)
