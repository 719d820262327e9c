"""timm's three ViT classes, and the originals that share their names: DeiT, DeiT-III, DINO, MAE, BEiT, EVA-02."""

from __future__ import annotations

from torch import Tensor

from vit.model.config import ClassifierConfig
from vit.pretrained.layouts.orders import channels_last, interleaved
from vit.pretrained.layouts.rules import Layout, Row

STEM: tuple[Row, ...] = (
    ("encoder.cls_token", "cls_token"),
    ("encoder.dist_token", "dist_token"),
    ("encoder.reg_token", "reg_token"),
    ("encoder.pos_embed", "pos_embed"),
    ("encoder.patch_embed.proj.weight", "patch_embed.proj.weight", "conv"),
    ("encoder.patch_embed.proj.bias", "patch_embed.proj.bias"),
    ("encoder.patch_norm.*", "patch_embed.norm.*"),
    ("encoder.norm_pre.*", "norm_pre.*"),
)
ATTENTION: tuple[Row, ...] = (
    ("encoder.blocks.#.norm1.*", "blocks.#.norm1.*"),
    ("encoder.blocks.#.attn.qkv.*", "blocks.#.attn.qkv.*"),
    ("encoder.blocks.#.attn.q_norm.*", "blocks.#.attn.q_norm.*"),
    ("encoder.blocks.#.attn.k_norm.*", "blocks.#.attn.k_norm.*"),
    ("encoder.blocks.#.attn.inner_norm.*", "blocks.#.attn.norm.*"),
    ("encoder.blocks.#.attn.proj.*", "blocks.#.attn.proj.*"),
    ("encoder.blocks.#.norm2.*", "blocks.#.norm2.*"),
)
MLP: tuple[Row, ...] = (
    ("encoder.blocks.#.mlp.fc1.*", "blocks.#.mlp.fc1.*"),
    ("encoder.blocks.#.mlp.norm.*", "blocks.#.mlp.norm.*"),
    ("encoder.blocks.#.mlp.fc2.*", "blocks.#.mlp.fc2.*"),
    ("encoder.blocks.#.mlp.w3.*", "blocks.#.mlp.fc2.*"),
)
PACKED: tuple[Row, ...] = (("encoder.blocks.#.mlp.w12.*", "blocks.#.mlp.fc1.*"),)
SPLIT: tuple[Row, ...] = (("encoder.blocks.#.mlp.w12.*", "blocks.#.mlp.{fc1_g,fc1_x}.*"),)
LAYER_SCALE: tuple[Row, ...] = (
    ("encoder.blocks.#.ls1.gamma", "blocks.#.ls1.gamma"),
    ("encoder.blocks.#.ls2.gamma", "blocks.#.ls2.gamma"),
)
GAMMA: tuple[Row, ...] = (
    ("encoder.blocks.#.ls1.gamma", "blocks.#.gamma_1"),
    ("encoder.blocks.#.ls2.gamma", "blocks.#.gamma_2"),
)
QV_BIAS: tuple[Row, ...] = (
    ("encoder.blocks.#.attn.q_bias", "blocks.#.attn.q_bias"),
    ("encoder.blocks.#.attn.v_bias", "blocks.#.attn.v_bias"),
)
SPLIT_QKV: tuple[Row, ...] = (
    ("encoder.blocks.#.attn.qkv.weight", "blocks.#.attn.{q_proj,k_proj,v_proj}.weight"),
    ("encoder.blocks.#.attn.q_bias", "blocks.#.attn.q_proj.bias"),
    ("encoder.blocks.#.attn.v_bias", "blocks.#.attn.v_proj.bias"),
)
TOP: tuple[Row, ...] = (
    ("encoder.norm.*", "norm.*"),
    ("pool_norm.*", "fc_norm.*"),
    ("attn_pool.probe", "attn_pool.latent"),
    ("attn_pool.attn.qkv.*", "attn_pool.{q,kv}.*"),
    ("attn_pool.attn.proj.*", "attn_pool.proj.*"),
    ("attn_pool.norm.*", "attn_pool.norm.*"),
    ("attn_pool.mlp.fc1.*", "attn_pool.mlp.fc1.*"),
    ("attn_pool.mlp.fc2.*", "attn_pool.mlp.fc2.*"),
    ("head.*", "head.*"),
    ("head.cls.*", "head.*"),
    ("head.dist.*", "head_dist.*"),
)
ROPE: tuple[Row, ...] = (("encoder.rope_freqs", "rope.freqs"),)
VIT = "blocks.0.attn.qkv.weight"
ORIGINAL_ONLY = ("mask_token", "*decoder*", "storage_tokens", "register_tokens", "*bias_mask", "blocks.0.mlp.w3.weight")
EVA_ONLY = ("*.gamma_1", "*.q_bias", "rope.freqs")

TIMM = Layout(
    "timm VisionTransformer",
    (*STEM, *ATTENTION, *MLP, *SPLIT, *PACKED, *LAYER_SCALE, *TOP),
    (VIT, "patch_embed.proj.weight"),
    never=(*ORIGINAL_ONLY, *EVA_ONLY),
    ours=interleaved,
)
# timm has no class with both split and packed matrices, so writing needs a layout for each.
TIMM_PACKED = Layout(
    "timm VisionTransformer, packed SwiGLU",
    (*STEM, *ATTENTION, *MLP, *PACKED, *LAYER_SCALE, *TOP),
    TIMM.marks,
    never=(*TIMM.never, "*.fc1_g.weight"),
)
TIMM_EVA = Layout(
    "timm Eva",
    (*STEM, *ATTENTION, *MLP, *SPLIT, *PACKED, *GAMMA, *QV_BIAS, *ROPE, *TOP),
    (VIT, "patch_embed.proj.weight"),
    never=(*ORIGINAL_ONLY, "*.relative_position_bias_table", "*.ls1.gamma"),
    ours=interleaved,
)
TIMM_EVA_PACKED = Layout(
    "timm Eva, packed SwiGLU",
    (*STEM, *ATTENTION, *MLP, *PACKED, *GAMMA, *QV_BIAS, *ROPE, *TOP),
    TIMM_EVA.marks,
    never=(*TIMM_EVA.never, "*.fc1_g.weight"),
    ours=interleaved,
)
TIMM_EVA_SPLIT = Layout(
    "timm Eva, split projections",
    (*STEM, *SPLIT_QKV, *ATTENTION, *MLP, *SPLIT, *GAMMA, *ROPE, *TOP),
    ("blocks.0.attn.q_proj.weight", "blocks.0.mlp.fc1_g.weight"),
    never=ORIGINAL_ONLY,
    ours=interleaved,
)
TIMM_BEIT = Layout(
    "BEiT (timm and original)",
    (
        *STEM,
        *ATTENTION,
        *MLP,
        *GAMMA,
        *QV_BIAS,
        ("encoder.relative.#.table", "blocks.#.attn.relative_position_bias_table"),
        ("encoder.relative.#.table", "rel_pos_bias.relative_position_bias_table"),
        *TOP,
    ),
    (VIT, "*relative_position_bias_table"),
    left_out={
        "*relative_position_index": "computed from the grid",
        "mask_token": "for pre-training only",
        "lm_head.*": "for pre-training only",
    },
)
NAFLEX_STEM: tuple[Row, ...] = (
    ("encoder.cls_token", "embeds.cls_token"),
    ("encoder.reg_token", "embeds.reg_token"),
    ("encoder.pos_embed", "embeds.pos_embed"),
    ("encoder.patch_embed.proj.weight", "embeds.proj.weight"),
    ("encoder.patch_embed.proj.bias", "embeds.proj.bias"),
)


def _grid_of_positions(name: str, tensor: Tensor, config: ClassifierConfig, writing: bool) -> Tensor:
    """NaFlexViT stores its positions as a grid [1, h, w, D]."""
    if name != "embeds.pos_embed":
        return tensor
    return tensor.unflatten(1, config.encoder.grid) if writing else tensor.flatten(1, 2)


TIMM_NAFLEX = Layout(
    "timm NaFlexVit",
    (*NAFLEX_STEM, *ATTENTION, *MLP, *LAYER_SCALE, *TOP),
    (VIT, "embeds.proj.weight", "embeds.pos_embed"),
    resize=None,
    theirs=_grid_of_positions,
    ours=channels_last,
)
DEIT3 = Layout(
    "DeiT-III (original)",
    (*STEM, *ATTENTION, *MLP, *GAMMA, *TOP),
    (VIT, "blocks.0.gamma_1"),
    never=("*.q_bias", "*.relative_position_bias_table", "*mask*", "reg_token"),
    resize="plain",
)
MAE = Layout(
    "MAE (original, pre-training)",
    (*STEM, *ATTENTION, *MLP, *TOP),
    (VIT, "decoder_embed.weight", "mask_token"),
    left_out={
        "decoder_*": "the decoder, for pre-training only",
        "mask_token": "for pre-training only",
    },
    resize="plain",
)
EVA02 = Layout(
    "EVA-02 (original)",
    (
        *STEM,
        ("encoder.blocks.#.attn.inner_norm.*", "blocks.#.attn.inner_attn_ln.*"),
        *SPLIT_QKV[:1],
        *ATTENTION,
        *QV_BIAS,
        ("encoder.blocks.#.mlp.w12.*", "blocks.#.mlp.{w1,w2}.*"),
        ("encoder.blocks.#.mlp.w12.*", "blocks.#.mlp.w12.*"),
        ("encoder.blocks.#.mlp.norm.*", "blocks.#.mlp.ffn_ln.*"),
        ("encoder.blocks.#.mlp.w3.*", "blocks.#.mlp.w3.*"),
        *TOP,
    ),
    ("blocks.0.mlp.w3.weight", "blocks.0.attn.proj.weight", "patch_embed.proj.weight", "blocks.0.attn.q_bias"),
    left_out={
        "*rope.freqs_*": "computed from the grid",
        "mask_token": "for pre-training only",
        "lm_head.*": "for pre-training only",
        "/*": "the text tower",
    },
    resize="plain",
    ours=interleaved,
)
