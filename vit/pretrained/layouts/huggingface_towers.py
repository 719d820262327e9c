"""Hugging Face's image towers (CLIP, SigLIP, SigLIP 2, AIMv2): files as 4.x and 5.x write them, in memory the same."""

from __future__ import annotations

import dataclasses

from vit.model.config import ClassifierConfig
from vit.pretrained.layouts.huggingface import HEADS, norms
from vit.pretrained.layouts.orders import channels_last
from vit.pretrained.layouts.rules import Layout, Row

BLOCK = "encoder.layers.#."
TOWER: tuple[Row, ...] = (
    ("encoder.cls_token", "embeddings.class_embedding", "flat"),
    ("encoder.pos_embed", "embeddings.position_embedding.weight", "flat"),
    ("encoder.patch_embed.proj.weight", "embeddings.patch_embedding.weight", "conv"),
    ("encoder.patch_embed.proj.bias", "embeddings.patch_embedding.bias"),
    ("encoder.norm_pre.*", "pre_layrnorm.*"),
    *norms(BLOCK, "layer_norm1", "layer_norm2"),
    ("encoder.blocks.#.attn.qkv.*", BLOCK + "self_attn.{q_proj,k_proj,v_proj}.*"),
    ("encoder.blocks.#.attn.proj.*", BLOCK + "self_attn.out_proj.*"),
    ("encoder.blocks.#.mlp.fc1.*", BLOCK + "mlp.fc1.*"),
    ("encoder.blocks.#.mlp.fc2.*", BLOCK + "mlp.fc2.*"),
    ("encoder.norm.*", "post_layernorm.*"),
    ("attn_pool.probe", "head.probe"),
    ("attn_pool.attn.qkv.weight", "head.attention.in_proj_weight"),
    ("attn_pool.attn.qkv.bias", "head.attention.in_proj_bias"),
    ("attn_pool.attn.proj.*", "head.attention.out_proj.*"),
    ("attn_pool.norm.*", "head.layernorm.*"),
    ("attn_pool.mlp.fc1.*", "head.mlp.fc1.*"),
    ("attn_pool.mlp.fc2.*", "head.mlp.fc2.*"),
)
TEXT = {
    "/text_model.*": "the text tower",
    "/text_projection.*": "the text tower",
    "/logit_scale": "the temperature of the loss",
    "/logit_bias": "the temperature of the loss",
    "embeddings.position_ids": "0, 1, 2, ...",
}
ANCHOR = BLOCK.replace("#", "0") + "layer_norm1.weight"
CLIP = Layout(
    "Hugging Face CLIP vision",
    (*TOWER, ("head.weight", "/visual_projection.weight")),
    (ANCHOR, "embeddings.class_embedding", "pre_layrnorm.weight"),
    left_out=TEXT,
    resize="plain",
)


def _mean_of_patches(config: ClassifierConfig, names: set[str]) -> ClassifierConfig:
    """SiglipForImageClassification pools the mean of the patches and leaves the attention pooling unused."""
    return dataclasses.replace(config, pool="mean") if "/classifier.weight" in names else config


SIGLIP = Layout(
    "Hugging Face Siglip vision",
    TOWER,
    (ANCHOR, "embeddings.patch_embedding.weight", "head.probe"),
    never=("embeddings.class_embedding", "/classifier.weight"),
    left_out=TEXT,
    resize="plain",
)
SIGLIP_CLASSIFIER = Layout(
    "Hugging Face SiglipForImageClassification",
    (*TOWER, *HEADS),
    (ANCHOR, "embeddings.patch_embedding.weight", "/classifier.weight"),
    never=("embeddings.class_embedding",),
    left_out={**TEXT, "head.*": "the classifier looks at the mean of the patches"},
    resize="plain",
    adapt=_mean_of_patches,
)


NAFLEX = Layout(
    "Hugging Face Siglip2 vision (NaFlex)",
    tuple(row if "patch_embed.proj.weight" not in row[0] else row[:2] for row in TOWER),
    SIGLIP.marks,
    never=SIGLIP.never,
    left_out=TEXT,
    resize="bilinear",
    ours=channels_last,
)
AIMV2 = Layout(
    "Hugging Face Aimv2 vision",
    (
        ("encoder.pos_embed", "embeddings.position_embedding.weight", "flat"),
        ("encoder.patch_embed.proj.weight", "embeddings.patch_embed.weight", "conv"),
        ("encoder.patch_embed.proj.bias", "embeddings.patch_embed.bias"),
        ("encoder.patch_norm.weight", "embeddings.rms_norm.weight"),
        ("encoder.blocks.#.norm1.weight", BLOCK + "rms_norm1.weight"),
        ("encoder.blocks.#.attn.qkv.weight", BLOCK + "attention.{q_proj,k_proj,v_proj}.weight"),
        ("encoder.blocks.#.attn.proj.weight", BLOCK + "attention.out_proj.weight"),
        ("encoder.blocks.#.norm2.weight", BLOCK + "rms_norm2.weight"),
        ("encoder.blocks.#.mlp.w12.weight", BLOCK + "ffn.{gate_proj,up_proj}.weight"),
        ("encoder.blocks.#.mlp.w3.weight", BLOCK + "ffn.down_proj.weight"),
        ("encoder.norm.weight", "rms_norm.weight"),
    ),
    (BLOCK.replace("#", "0") + "rms_norm1.weight", "embeddings.rms_norm.weight"),
    left_out={
        **TEXT,
        "head.*": "a pooling head whose queries are an average; take the patches",
        "/visual_projection.*": "what that head's answer is multiplied by, beside a text tower",
    },
    resize="plain",
)
AIMV2_ORIGINAL = Layout(
    "AIMv2 (original)",
    (
        ("encoder.pos_embed", "preprocessor.pos_embed"),
        ("encoder.patch_embed.proj.weight", "preprocessor.patchifier.proj.weight", "conv"),
        ("encoder.patch_embed.proj.bias", "preprocessor.patchifier.proj.bias"),
        ("encoder.patch_norm.weight", "preprocessor.patchifier.norm.weight"),
        ("encoder.blocks.#.norm1.weight", "trunk.blocks.#.norm_1.weight"),
        ("encoder.blocks.#.attn.qkv.weight", "trunk.blocks.#.attn.qkv.weight"),
        ("encoder.blocks.#.attn.proj.weight", "trunk.blocks.#.attn.proj.weight"),
        ("encoder.blocks.#.norm2.weight", "trunk.blocks.#.norm_2.weight"),
        ("encoder.blocks.#.mlp.w12.weight", "trunk.blocks.#.mlp.{fc1,fc3}.weight"),
        ("encoder.blocks.#.mlp.w3.weight", "trunk.blocks.#.mlp.fc2.weight"),
        ("encoder.norm.weight", "trunk.post_trunk_norm.weight"),
    ),
    ("trunk.blocks.0.norm_1.weight", "preprocessor.patchifier.proj.weight"),
    resize="plain",
)
