"""Every family against timm: same random weights, native and non-square size, patch tokens, pooled features, logits."""

from __future__ import annotations

import pytest
import timm
import torch

from tests.pretrained.parity import LIMIT, error, ours_from, outputs, with_fields
from tests.pretrained.random_weights import images, randomize

DEPTH = 2
# name, timm's name, arguments of timm's class, the non-square size in pixels, the negative checks
CASES = {
    "vit_ti16": ("vit_tiny_patch16_224", {}, (160, 288), [{"activation": "gelu_tanh"}, {"eps": 1e-5}]),
    "vit_s16": ("vit_small_patch16_224", {}, (160, 288), [{"position_resize": "plain"}]),
    "deit_s16_distilled": ("deit_small_distilled_patch16_224", {}, (160, 288), []),
    "deit3_s16": ("deit3_small_patch16_224", {}, (160, 288), [{"position_resize": "plain"}]),
    "flexivit_s16": ("flexivit_small", {}, (160, 288), []),
    "dinov2_s14": ("vit_small_patch14_dinov2", {"num_classes": 7}, (210, 322), [{"position_resize": "plain"}]),
    "dinov2_s14_reg4": ("vit_small_patch14_reg4_dinov2", {}, (210, 322), []),
    "dinov3_s16": ("vit_small_patch16_dinov3_qkvb", {"num_classes": 7}, (160, 288),
                   [{"rope_bf16": True}, {"rope_axes": "xy"}]),
    "dinov3_s16plus": ("vit_small_plus_patch16_dinov3", {}, (160, 288), [{"eps": 1e-6}]),
    "beit_b16": ("beit_base_patch16_224", {}, (160, 288), [{"position_resize": "plain"}]),
    "beitv2_b16": ("beitv2_base_patch16_224", {}, (160, 288), []),
    "openclip_b16": ("vit_base_patch16_clip_224", {"num_classes": 512}, (160, 288), [{"activation": "quick_gelu"}]),
    "clip_b16": ("vit_base_patch16_clip_quickgelu_224", {"num_classes": 512}, (160, 288), [{"activation": "gelu"}]),
    "siglip2_b16": ("vit_base_patch16_siglip_224", {}, (160, 288), [{"activation": "gelu_tanh"}]),
    "siglip2_b32": ("vit_base_patch32_siglip_256", {}, (160, 288), [{"activation": "gelu"}]),
    "eva02_s14": ("eva02_small_patch14_336", {}, (210, 322), [{"rope_axes": "xy"}]),
    "eva02_b14": ("eva02_base_patch14_448", {}, (210, 322), [{"rope_reference": None}]),
    "eva02_clip_b16": ("eva02_base_patch16_clip_224", {"num_classes": 512}, (160, 288), [{"eps": 1e-5}]),
    "pe_core_b16": ("vit_pe_core_base_patch16_224", {"num_classes": 1024}, (160, 288),
                    [{"rope_offset": 0.0}, {"rope_axes": "yx"}]),
    "pe_spatial_b16": ("vit_pe_spatial_base_patch16_512", {}, (160, 288), []),
    "aimv2_l14": ("aimv2_large_patch14_224", {}, (210, 322), [{"eps": 1e-6}]),
    "naflexvit_b16_gap": ("naflexvit_base_patch16_gap", {"num_classes": 7}, (160, 288),
                          [{"position_resize": "aspect"}]),
    "naflexvit_b16_par_gap": ("naflexvit_base_patch16_par_gap", {}, (160, 288), [{"position_resize": "antialias"}]),
    "naflexvit_b16_map": ("naflexvit_base_patch16_map", {}, (160, 288), []),
    "siglip2_b16_naflex": ("naflexvit_base_patch16_siglip", {}, (160, 288), [{"position_resize": "antialias"}]),
    "rope_s16": ("vit_small_patch16_rope_224", {}, (160, 288), [{"rope_axes": "yx"}]),
    "rope_mixed_s16": ("vit_small_patch16_rope_mixed_224", {}, (160, 288), [{"rope_axes": "yx"}]),
    "rope_ape_s16": ("vit_small_patch16_rope_ape_224", {}, (160, 288), []),
}  # fmt: skip


def reference(name: str, **arguments):
    if not name.startswith(("beit", "naflex")):
        arguments["dynamic_img_size"] = True
    model = timm.create_model(name, depth=DEPTH, **arguments).eval()
    randomize(model)
    return model


@torch.inference_mode()
def theirs(model, x):
    tokens = model.forward_features(x)
    pooled = model.forward_head(tokens, pre_logits=True)
    return {
        "patches": tokens[:, model.num_prefix_tokens :],
        "prefix": tokens[:, : model.num_prefix_tokens],
        "pooled": pooled,
        "logits": model.forward_head(tokens),
    }


def largest_error(model, other, size) -> float:
    x = images(*size)
    mine = outputs(model, x)
    if hasattr(other, "set_input_size") and not getattr(other, "dynamic_img_size", False):
        other.set_input_size(img_size=size)
    right = theirs(other, x)
    if model.config.pool == "class_distill":  # timm's pooled features are the mean of the two tokens
        mine["pooled"] = sum(mine["pooled"].chunk(2, dim=1)) / 2
    return max(error(mine[key], right[key]) for key in mine if right[key].numel())


# timm's resizing of relative tables goes through torch.searchsorted and old indexing.
@pytest.mark.filterwarnings("ignore:.*searchsorted.*:UserWarning", "ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_features_and_logits_are_timms(name):
    other_name, arguments, odd_size, wrong_fields = CASES[name]
    other = reference(other_name, **arguments)
    state = {key: value.clone() for key, value in other.state_dict().items()}
    model = ours_from(name, state, DEPTH)
    native = model.config.encoder.image_size
    assert largest_error(model, other, native) <= LIMIT
    assert largest_error(model, other, odd_size) <= LIMIT
    for fields in wrong_fields:
        wrong = with_fields(model, **fields)
        worst = max(largest_error(wrong, other, size) for size in (odd_size, native))
        assert worst > LIMIT, f"{fields} goes unnoticed ({worst:.1e})"
