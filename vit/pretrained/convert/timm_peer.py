"""The timm model that computes the same as a config: its class, its arguments and its layout."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from vit.errors import UserError
from vit.model.config import ClassifierConfig
from vit.pretrained.layouts import timm as tl
from vit.pretrained.layouts.rules import Layout

POOLS = {"class": "token", "mean": "avg", "attention": "map", "class_distill": "token"}
NORMS = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}


def timm_class(config: ClassifierConfig) -> tuple[str, Layout]:
    """The name of timm's class and the layout of its files. Raises UserError if timm has none."""
    e = config.encoder
    refused = {
        "a convolutional stem": e.stem == "conv",
        "a head on the class token and the mean side by side": config.pool == "class_mean" and config.num_classes > 0,
        "two last norms": e.final_norm and config.pool_norm,
        "relative positions and an activation but GELU": e.relative_positions and e.activation != "gelu",
        "rotary positions and an activation but GELU": e.rope and e.feed_forward == "mlp" and e.activation != "gelu",
        # With a norm before the blocks, timm gives the patches no bias.
        "a norm before the blocks and a bias of the patches": e.pre_norm and e.patch_bias,
        "patches without a bias": not e.pre_norm and not e.patch_bias,
    }
    if any(refused.values()):
        raise UserError(f"timm has no ViT with {', '.join(what for what, there in refused.items() if there)}.")
    if e.relative_positions:
        return "Beit", tl.TIMM_BEIT
    if e.distill_token:
        return "VisionTransformerDistilled", tl.TIMM
    if e.rope:
        if e.feed_forward_norm:
            return "Eva", tl.TIMM_EVA_SPLIT
        return "Eva", tl.TIMM_EVA if e.rope_places == "centered" or e.feed_forward == "mlp" else tl.TIMM_EVA_PACKED
    if e.position_resize == "aspect" or (e.position_resize == "bilinear" and e.kernel_resize == "bicubic"):
        return "NaFlexVit", tl.TIMM_NAFLEX
    return "VisionTransformer", tl.TIMM if e.norm == "rmsnorm" else tl.TIMM_PACKED


def timm_model(config: ClassifierConfig) -> nn.Module:
    """The timm model with new weights. Raises UserError if timm has no class for it."""
    name, _ = timm_class(config)
    e = config.encoder
    args: dict[str, Any] = {
        "img_size": e.image_size,
        "patch_size": e.patch_size,
        "in_chans": e.in_chans,
        "num_classes": config.num_classes,
        "embed_dim": e.width,
        "depth": e.depth,
        "num_heads": e.heads,
        "mlp_ratio": (e.mlp + 0.5) / e.width,  # which timm multiplies and rounds down
        "qkv_bias": bool(e.qkv_bias),
        "init_values": e.layer_scale,
        "norm_layer": partial(NORMS[e.norm], eps=e.eps),
        "global_pool": POOLS.get(config.pool, "token"),
    }
    make = {"Beit": _beit, "Eva": _eva, "NaFlexVit": _naflex}.get(name, _vision_transformer)
    return make(config, args)


def _beit(config: ClassifierConfig, args: dict[str, Any]) -> nn.Module:
    from timm.models import beit

    return beit.Beit(
        **args,
        use_abs_pos_emb=config.encoder.positions != "none",
        use_rel_pos_bias=True,
        use_fc_norm=config.pool_norm,
    )


def _plain(config: ClassifierConfig) -> dict[str, Any]:
    """The arguments that timm's plain and NaFlex transformers share."""
    e = config.encoder
    return {
        "class_token": e.class_token,
        "reg_tokens": e.registers,
        "act_layer": nn.SiLU if e.feed_forward == "swiglu" else e.activation,
        "pre_norm": e.pre_norm,
        "final_norm": e.final_norm or config.pool_norm,
        "fc_norm": config.pool_norm,
        "pool_include_prefix": config.pool == "attention" and config.pool_prefix,
        "proj_bias": e.bias,
        "qk_norm": e.qk_norm,
    }


def _naflex(config: ClassifierConfig, args: dict[str, Any]) -> nn.Module:
    from timm.models import naflexvit

    e = config.encoder
    apart = ("img_size", "norm_layer", "in_chans", "num_classes")
    cfg = naflexvit.NaFlexVitCfg(
        **{key: value for key, value in args.items() if key not in apart},
        **_plain(config),
        pos_embed_grid_size=e.grid,
        pos_embed_interp_mode="bilinear" if e.position_resize == "bilinear" else "bicubic",
        pos_embed_ar_preserving=e.position_resize == "aspect",
    )
    model = naflexvit.NaFlexVit(cfg=cfg, in_chans=e.in_chans, num_classes=config.num_classes)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = e.eps
    return model


def _vision_transformer(config: ClassifierConfig, args: dict[str, Any]) -> nn.Module:
    from timm.layers.mlp import SwiGLU, SwiGLUPacked
    from timm.models import deit, vision_transformer

    e = config.encoder
    if e.feed_forward == "swiglu":
        packed = e.norm == "layernorm"
        args = {**args, "mlp_layer": SwiGLUPacked if packed else SwiGLU}
        if packed:  # its hidden width counts both halves
            args["mlp_ratio"] = (2 * e.mlp + 0.5) / e.width
    kind = deit.VisionTransformerDistilled if e.distill_token else vision_transformer.VisionTransformer
    return kind(
        **args,
        **_plain(config),
        no_embed_class=e.prefix_positions == 0,
        pos_embed="none" if e.positions == "none" else "learn",
        embed_norm_layer=args["norm_layer"] if e.patch_norm else None,
        scale_attn_norm=e.attention_norm,
        scale_mlp_norm=e.feed_forward_norm,
    )


def _eva(config: ClassifierConfig, args: dict[str, Any]) -> nn.Module:
    from timm.models import eva

    e = config.encoder
    kind = "mixed" if e.rope_mixed else "dinov3" if e.rope_places == "centered" else "cat"
    hidden = config.pool_mlp or e.mlp
    return eva.Eva(
        **args,
        class_token=e.class_token,
        num_reg_tokens=e.registers,
        no_embed_class=e.prefix_positions == 0,
        qk_norm=e.qk_norm,
        use_fc_norm=config.pool_norm,
        # With a norm in it, or where DINOv3 has it, the two inputs of SwiGLU are matrices of their own.
        swiglu_mlp=e.feed_forward == "swiglu",
        swiglu_align_to=int(e.rope_places == "centered"),
        scale_mlp=e.feed_forward_norm,
        scale_attn_inner=e.attention_norm,
        qkv_fused=not e.feed_forward_norm,
        attn_type="rope" if e.qkv_bias is True else "eva",
        use_abs_pos_emb=e.positions != "none",
        use_rot_pos_emb=True,
        rope_type=kind,
        rope_grid_offset=e.rope_offset,
        rope_grid_indexing="xy" if e.rope_axes == "xy" else "ij",
        rope_temperature=e.rope_base,
        rope_rotate_half=kind == "dinov3",
        ref_feat_shape=e.rope_reference,
        use_pre_transformer_norm=e.pre_norm,
        use_post_transformer_norm=e.final_norm,
        attn_pool_num_heads=config.pool_heads or e.heads,
        attn_pool_mlp_ratio=(hidden + 0.5) / e.width,
    )
