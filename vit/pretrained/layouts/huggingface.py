"""Hugging Face's plain ViTs (ViT, DeiT, BEiT, MAE, I-JEPA, DINOv2, DINOv3): files as 4.x and 5.x write them, and the
names 5.x uses in memory.

All but one resize positions with plain bicubic interpolation, whatever the original did.
"""

from __future__ import annotations

import dataclasses

from vit.model.config import ClassifierConfig
from vit.pretrained.layouts.rules import Layout, Row

POOLER = "a tanh layer of the base model, which no head uses"
PRETRAINING = "for pre-training only"
LEFT_OUT = {"pooler.dense.*": POOLER, "/lm_head.*": PRETRAINING}
LEFT_OUT |= {"embeddings.mask_token": PRETRAINING, "/mask_token": PRETRAINING}

EMBEDDINGS: tuple[Row, ...] = (
    ("encoder.cls_token", "embeddings.cls_token"),
    ("encoder.dist_token", "embeddings.distillation_token"),
    ("encoder.reg_token", "embeddings.register_tokens"),
    ("encoder.pos_embed", "embeddings.position_embeddings"),
    ("encoder.patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight", "conv"),
    ("encoder.patch_embed.proj.bias", "embeddings.patch_embeddings.projection.bias"),
)
HEADS: tuple[Row, ...] = (
    ("head.*", "/classifier.*"),
    ("head.*", "/cls_classifier.*"),
    ("head.cls.*", "/cls_classifier.*"),
    ("head.dist.*", "/distillation_classifier.*"),
)


def _attention(old: str, new: str) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Rows of a block's attention: (names in files, names in memory in 5.x); `old` and `new` are their prefixes."""
    o, n, ours = old + "attention.", new + "attention.", "encoder.blocks.#.attn."
    files: tuple[Row, ...] = (
        (ours + "qkv.*", o + "attention.{query,key,value}.*"),
        (ours + "qkv.weight", o + "attention.{query,key,value}.weight"),
        (ours + "q_bias", o + "attention.query.bias"),
        (ours + "v_bias", o + "attention.value.bias"),
        (ours + "proj.*", o + "output.dense.*"),
    )
    memory: tuple[Row, ...] = (
        (ours + "qkv.*", n + "{q_proj,k_proj,v_proj}.*"),
        (ours + "q_bias", n + "q_proj.bias"),
        (ours + "v_bias", n + "v_proj.bias"),
        (ours + "proj.*", n + "o_proj.*"),
    )
    return files, memory


def norms(before: str, norm1: str, norm2: str) -> tuple[Row, ...]:
    return (
        ("encoder.blocks.#.norm1.*", f"{before}{norm1}.*"),
        ("encoder.blocks.#.norm2.*", f"{before}{norm2}.*"),
    )


OLD, NEW = "encoder.layer.#.", "layers.#."
OLD_ATTENTION, NEW_ATTENTION = _attention(OLD, NEW)
OLD_MLP: tuple[Row, ...] = (
    ("encoder.blocks.#.mlp.fc1.*", OLD + "intermediate.dense.*"),
    ("encoder.blocks.#.mlp.fc2.*", OLD + "output.dense.*"),
)
NEW_MLP: tuple[Row, ...] = (
    ("encoder.blocks.#.mlp.fc1.*", NEW + "mlp.fc1.*"),
    ("encoder.blocks.#.mlp.fc2.*", NEW + "mlp.fc2.*"),
)
TOP: tuple[Row, ...] = (("encoder.norm.*", "layernorm.*"), ("encoder.norm.*", "/layernorm.*"), *HEADS)
DECODER = {"/decoder.*": "the decoder, for pre-training only"}
BEIT_OLD: tuple[Row, ...] = (
    ("encoder.blocks.#.ls1.gamma", OLD + "lambda_1"),
    ("encoder.blocks.#.ls2.gamma", OLD + "lambda_2"),
    ("encoder.relative.#.table", OLD + "attention.attention.relative_position_bias.relative_position_bias_table"),
    ("encoder.relative.#.table", "encoder.relative_position_bias.relative_position_bias_table"),
    ("pool_norm.*", "pooler.layernorm.*"),
)
BEIT_NEW: tuple[Row, ...] = (
    ("encoder.blocks.#.ls1.gamma", NEW + "lambda_1"),
    ("encoder.blocks.#.ls2.gamma", NEW + "lambda_2"),
    ("encoder.relative.#.table", NEW + "relative_position_bias.relative_position_bias_table"),
    ("encoder.relative.#.table", "shared_position_bias.relative_position_bias_table"),
    ("pool_norm.*", "pooler.layernorm.*"),
)
INDEX = {"*.relative_position_index": "computed from the grid"}


def _tiny_eps(config: ClassifierConfig, names: set[str]) -> ClassifierConfig:
    """The default of ViTConfig, which the public files of these families use."""
    return dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, eps=1e-12))


VIT = Layout(
    "Hugging Face ViT",
    (*EMBEDDINGS, *norms(OLD, "layernorm_before", "layernorm_after"), *OLD_ATTENTION, *OLD_MLP, *BEIT_OLD, *TOP),
    (OLD.replace("#", "0") + "layernorm_before.weight", "embeddings.patch_embeddings.projection.weight"),
    left_out={**LEFT_OUT, **DECODER, **INDEX},
    resize="plain",
    adapt=_tiny_eps,
)
VIT_MEMORY = Layout(
    "Hugging Face ViT (names in memory of 5.x)",
    (*EMBEDDINGS, *norms(NEW, "layernorm_before", "layernorm_after"), *NEW_ATTENTION, *NEW_MLP, *BEIT_NEW, *TOP),
    (NEW.replace("#", "0") + "layernorm_before.weight", "embeddings.patch_embeddings.projection.weight"),
    left_out={**LEFT_OUT, **DECODER, **INDEX},
    resize="plain",
    adapt=_tiny_eps,
)
IJEPA, IJEPA_MEMORY = (  # the only public files of ViT's names with another eps
    dataclasses.replace(layout, name=layout.name.replace("ViT", "IJepa"), adapt=lambda config, names: config)
    for layout in (VIT, VIT_MEMORY)
)
DINOV2_BLOCK: tuple[Row, ...] = (
    ("encoder.blocks.#.ls1.gamma", OLD + "layer_scale1.lambda1"),
    ("encoder.blocks.#.ls2.gamma", OLD + "layer_scale2.lambda1"),
    ("encoder.blocks.#.mlp.fc1.*", OLD + "mlp.fc1.*"),
    ("encoder.blocks.#.mlp.fc2.*", OLD + "mlp.fc2.*"),
    ("encoder.blocks.#.mlp.w12.*", OLD + "mlp.weights_in.*"),
    ("encoder.blocks.#.mlp.w3.*", OLD + "mlp.weights_out.*"),
)


SPLIT_GATE: tuple[Row, ...] = (
    ("encoder.blocks.#.mlp.w12.*", OLD + "mlp.{gate_proj,up_proj}.*"),
    ("encoder.blocks.#.mlp.w3.*", OLD + "mlp.down_proj.*"),
)


def _class_and_mean(config: ClassifierConfig, names: set[str]) -> ClassifierConfig:
    """The classifier of Dinov2ForImageClassification sees the class token and the mean of the patches; the class with
    registers, alone among Hugging Face's, antialiases its positions."""
    if "embeddings.register_tokens" in names:
        config = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, position_resize="antialias"))
    return dataclasses.replace(config, pool="class_mean") if "/classifier.weight" in names else config


DINOV2 = Layout(
    "Hugging Face Dinov2",
    (*EMBEDDINGS, *norms(OLD, "norm1", "norm2"), *OLD_ATTENTION, *DINOV2_BLOCK, *TOP),
    (OLD.replace("#", "0") + "norm1.weight", "encoder.layer.0.attention.attention.query.weight"),
    left_out={**LEFT_OUT, "/decoder.*": "another task's head"},
    resize="plain",
    adapt=_class_and_mean,
)
DINOV2_MEMORY = Layout(
    "Hugging Face Dinov2 (names in memory of 5.x)",
    (*EMBEDDINGS, *norms(OLD, "norm1", "norm2"), *_attention(OLD, OLD)[1], *DINOV2_BLOCK, *SPLIT_GATE, *TOP),
    (OLD.replace("#", "0") + "norm1.weight", "encoder.layer.0.attention.q_proj.weight"),
    left_out=LEFT_OUT,
    resize="plain",
    adapt=_class_and_mean,
)


def _dinov3(before: str) -> tuple[Row, ...]:
    block, ours = before + "layer.#.", "encoder.blocks.#."
    return (
        *EMBEDDINGS[:3],
        ("encoder.patch_embed.proj.weight", "embeddings.patch_embeddings.weight", "conv"),
        ("encoder.patch_embed.proj.bias", "embeddings.patch_embeddings.bias"),
        *norms(block, "norm1", "norm2"),
        (ours + "attn.qkv.weight", block + "attention.{q_proj,k_proj,v_proj}.weight"),
        (ours + "attn.q_bias", block + "attention.q_proj.bias"),
        (ours + "attn.v_bias", block + "attention.v_proj.bias"),
        (ours + "attn.proj.*", block + "attention.o_proj.*"),
        (ours + "ls1.gamma", block + "layer_scale1.lambda1"),
        (ours + "ls2.gamma", block + "layer_scale2.lambda1"),
        (ours + "mlp.fc1.*", block + "mlp.up_proj.*"),
        (ours + "mlp.fc2.*", block + "mlp.down_proj.*"),
        (ours + "mlp.w12.*", block + "mlp.{gate_proj,up_proj}.*"),
        (ours + "mlp.w3.*", block + "mlp.down_proj.*"),
        ("encoder.norm.*", "norm.*"),
        *HEADS,
    )


DINOV3 = Layout(
    "Hugging Face DINOv3ViT",
    _dinov3(""),
    ("layer.0.norm1.weight", "embeddings.patch_embeddings.weight", "layer.0.attention.q_proj.weight"),
    left_out=LEFT_OUT,
)
DINOV3_MEMORY = Layout(
    "Hugging Face DINOv3ViT (names in memory of 5.x)",
    _dinov3("model."),
    ("model.layer.0.norm1.weight", "embeddings.patch_embeddings.weight", "model.layer.0.attention.q_proj.weight"),
    left_out=LEFT_OUT,
)
