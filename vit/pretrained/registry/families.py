"""Every public family by name: what its files do not tell about the model, and the license of its weights.

A name is FAMILY_SIZE+PATCH[_variant]: `dinov2_s14_reg4`. `vit_SIZE+PATCH` names of `vit.model.config.preset` are the
plain ViT (AugReg) and load the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vit.pretrained.layouts import clip as clip_layouts
from vit.pretrained.layouts import dino as dino_layouts
from vit.pretrained.layouts import google as google_layouts
from vit.pretrained.layouts import huggingface as hf
from vit.pretrained.layouts import huggingface_towers as towers
from vit.pretrained.layouts import timm as timm_layouts
from vit.pretrained.layouts import torchvision as torchvision_layouts
from vit.pretrained.layouts.rules import Layout

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
T, D, C = timm_layouts, dino_layouts, clip_layouts
HF_VIT, HF_DINOV2 = (hf.VIT, hf.VIT_MEMORY), (hf.DINOV2, hf.DINOV2_MEMORY)
TV = torchvision_layouts.TORCHVISION


@dataclass(frozen=True)
class Family:
    layouts: tuple[Layout, ...]
    """The layouts of its files; timm's comes first."""
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    """Mean and standard deviation of its preprocessing."""
    license: str
    encoder: dict[str, Any] = field(default_factory=dict)
    classifier: dict[str, Any] = field(default_factory=dict)
    crop: float = 0.9
    own_reference: bool = False
    """RoPE is scaled to the native grid."""
    in_timm: dict[str, Any] = field(default_factory=dict)
    """Fields that timm sets differently from the authors: a file in timm's layout computes what timm computes."""


EVA_ROPE = {
    "rope": True,
    "rope_places": "grid",
    "rope_base": 10_000.0,
    "rope_reference": (16, 16),
    "feed_forward": "swiglu",
    "qkv_bias": "qv",
    "prefix_positions": 1,
}
PE_ROPE = {
    "rope": True,
    "rope_places": "grid",
    "rope_base": 10_000.0,
    "rope_axes": "xy",
    "rope_offset": 1.0,
    "pre_norm": True,
    "patch_bias": False,
    "prefix_positions": 1,
    "eps": 1e-5,
}
ROPE_VIT = {"rope": True, "rope_places": "grid", "rope_axes": "xy", "positions": "none", "layer_scale": 1e-5}
CLS = {"prefix_positions": 1}
CLIP_TOWER = {"pre_norm": True, "patch_bias": False, "eps": 1e-5, **CLS}
NO_CLS = {"class_token": False}
NAFLEX = {**NO_CLS, "layer_scale": 1e-5}
AIM = {"norm": "rmsnorm", "eps": 1e-5, "patch_norm": True, "qkv_bias": False, "bias": False, "feed_forward": "swiglu"}
DINOV3 = {
    "rope": True, "positions": "none", "registers": 4, "qkv_bias": "qv", "layer_scale": 1e-5, "eps": 1e-5,
}  # fmt: skip

FAMILIES = {
    "vit": Family(
        (T.TIMM, *HF_VIT, TV, google_layouts.VIT_JAX, google_layouts.VIT_JAX_PRETRAINED,
         google_layouts.BIG_VISION),
        HALF, "Apache-2.0", CLS,
    ),
    "vit_rope": Family((T.TIMM_EVA,), HALF, "Apache-2.0", {"rope": True, "positions": "none"}),
    "tv": Family((TV, T.TIMM, *HF_VIT), IMAGENET, "BSD-3-Clause", CLS, crop=0.875),
    "flexivit": Family((T.TIMM, google_layouts.FLEXIVIT, *HF_VIT), HALF, "Apache-2.0", crop=0.95),
    "deit": Family((T.TIMM, *HF_VIT, TV), IMAGENET, "Apache-2.0", CLS),
    "deitd": Family(
        (T.TIMM, *HF_VIT), IMAGENET, "Apache-2.0", {"distill_token": True, "prefix_positions": 2},
        {"pool": "class_distill"},
    ),
    "deit3": Family((T.TIMM, T.DEIT3, *HF_DINOV2), IMAGENET, "Apache-2.0", {"layer_scale": 1e-6}),
    "dino": Family((T.TIMM, *HF_VIT, TV), IMAGENET, "Apache-2.0", CLS),
    "mae": Family((T.TIMM, T.MAE, *HF_VIT, TV), IMAGENET, "CC-BY-NC-4.0", CLS),
    "ijepa": Family((T.TIMM, hf.IJEPA, hf.IJEPA_MEMORY), IMAGENET, "CC-BY-NC-4.0", NO_CLS, {"pool": "mean"}, crop=1.0),
    "dinov2": Family(
        (T.TIMM, T.TIMM_PACKED, D.DINOV2, D.DINOV2_REGISTERS, *HF_DINOV2),
        IMAGENET, "Apache-2.0", {**CLS, "layer_scale": 1e-5}, crop=1.0,
    ),
    "dinov3": Family(
        (T.TIMM_EVA, D.DINOV3, hf.DINOV3, hf.DINOV3_MEMORY), IMAGENET, "DINOv3 License", DINOV3, crop=1.0,
        in_timm={"pool": "mean"},
    ),
    "beit": Family(
        (T.TIMM_BEIT, *HF_VIT), HALF, "Apache-2.0",
        {"positions": "none", "relative_positions": True, "qkv_bias": "qv", "layer_scale": 0.1, "final_norm": False},
        {"pool": "mean", "pool_norm": True},
    ),
    "beitv2": Family(
        (T.TIMM_BEIT, *HF_VIT), IMAGENET, "Apache-2.0",
        {"positions": "none", "relative_positions": True, "qkv_bias": "qv", "layer_scale": 1e-5, "final_norm": False},
        {"pool": "mean", "pool_norm": True},
    ),
    "clip": Family(
        (T.TIMM, C.CLIP, towers.CLIP), OPENAI, "MIT", {**CLIP_TOWER, "activation": "quick_gelu"}, {"head_bias": False},
    ),
    "openclip": Family((T.TIMM, C.CLIP, towers.CLIP), OPENAI, "MIT", CLIP_TOWER, {"head_bias": False}, crop=1.0),
    "siglip": Family(
        (T.TIMM, towers.SIGLIP, towers.SIGLIP_CLASSIFIER, google_layouts.BIG_VISION), HALF, "Apache-2.0",
        {**NO_CLS, "activation": "gelu_tanh"}, {"pool": "attention"}, in_timm={"activation": "gelu"},
    ),
    "siglip2": Family(
        (T.TIMM, towers.SIGLIP, towers.SIGLIP_CLASSIFIER, google_layouts.BIG_VISION), HALF, "Apache-2.0",
        {**NO_CLS, "activation": "gelu_tanh"}, {"pool": "attention"}, in_timm={"activation": "gelu"},
    ),
    "siglip2_naflex": Family(
        (T.TIMM_NAFLEX, towers.NAFLEX, google_layouts.NAFLEX), HALF, "Apache-2.0",
        {**NO_CLS, "activation": "gelu_tanh", "position_resize": "bilinear"},
        {"pool": "attention"}, crop=1.0,
    ),
    "naflexvit": Family(
        (T.TIMM_NAFLEX, T.TIMM), HALF, "Apache-2.0", {**NAFLEX, "final_norm": False},
        {"pool": "mean", "pool_norm": True}, crop=1.0,
    ),
    "naflexvit_par": Family(
        (T.TIMM_NAFLEX, T.TIMM), HALF, "Apache-2.0", {**NAFLEX, "position_resize": "aspect", "final_norm": False},
        {"pool": "mean", "pool_norm": True}, crop=1.0,
    ),
    "naflexvit_map": Family(
        (T.TIMM_NAFLEX, T.TIMM), HALF, "Apache-2.0", NAFLEX, {"pool": "attention", "pool_prefix": False}, crop=1.0,
    ),
    "eva02": Family(
        (T.TIMM_EVA_PACKED, T.TIMM_EVA_SPLIT, T.EVA02), OPENAI, "MIT", {**EVA_ROPE, "final_norm": False},
        {"pool": "mean", "pool_norm": True}, crop=1.0,
    ),
    "eva02_clip": Family(
        (T.TIMM_EVA_SPLIT, T.EVA02), OPENAI, "MIT",
        {**EVA_ROPE, "feed_forward_norm": True, "attention_norm": True},
    ),
    "pe_core": Family(
        (T.TIMM_EVA, C.PE), HALF, "Apache-2.0", PE_ROPE, {"pool": "attention", "pool_heads": 8}, crop=1.0,
        own_reference=True,
    ),
    "pe_spatial": Family(
        (T.TIMM_EVA, C.PE_SPATIAL), HALF, "Apache-2.0", {**PE_ROPE, "final_norm": False}, {"pool": "mean"}, crop=1.0,
        own_reference=True,
    ),
    "aimv2": Family(
        (T.TIMM, towers.AIMV2, towers.AIMV2_ORIGINAL), OPENAI, "Apple Sample Code License", {**AIM, **NO_CLS},
        {"pool": "mean"}, crop=1.0,
    ),
    "rope": Family((T.TIMM_EVA,), IMAGENET, "Apache-2.0", {**ROPE_VIT, "rope_base": 100.0}),
    "rope_mixed": Family((T.TIMM_EVA,), IMAGENET, "Apache-2.0", {**ROPE_VIT, "rope_base": 10.0, "rope_mixed": True}),
    "rope_ape": Family(
        (T.TIMM_EVA,), IMAGENET, "Apache-2.0", {**ROPE_VIT, "rope_base": 100.0, "positions": "learned"},
    ),
    "rope_mixed_ape": Family(
        (T.TIMM_EVA,), IMAGENET, "Apache-2.0",
        {**ROPE_VIT, "rope_base": 10.0, "rope_mixed": True, "positions": "learned"},
    ),
}  # fmt: skip
