"""Every family against timm: same random weights, native and non-square size, patch tokens, pooled features, logits.

The traps of each family are set wrongly as well, and must fail the same comparison.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch

from tests.pretrained.parity import (
    LIMIT,
    error,
    heads_swapped,
    other_order,
    ours_from,
    outputs,
    token_unplaced,
    with_fields,
)
from tests.pretrained.random_weights import images, randomize
from vit.model.classifier import Classifier
from vit.pretrained.registry.find import MODELS

DEPTH = 2
ODD, ODD14 = (96, 160), (84, 140)
TANH, GELU, QUICK = {"activation": "gelu_tanh"}, {"activation": "gelu"}, {"activation": "quick_gelu"}
PLAIN, BILINEAR, ANTIALIAS = ({"position_resize": rule} for rule in ("plain", "bilinear", "antialias"))
EPS5, EPS6 = {"eps": 1e-5}, {"eps": 1e-6}
XY, YX = {"rope_axes": "xy"}, {"rope_axes": "yx"}
# name: timm's name, arguments of timm's class, the non-square size in pixels, the negative checks
CASES = {
    "vit_ti16": ("vit_tiny_patch16_224", {}, ODD, [TANH, EPS5, PLAIN, token_unplaced]),
    "vit_s16": ("vit_small_patch16_224", {}, ODD, [PLAIN]),
    "vit_b16": ("vit_base_patch16_224", {}, ODD, [TANH]),
    "vit_l16": ("vit_large_patch16_224", {"img_size": 80}, (48, 96), [EPS5]),
    "mae_b16": ("vit_base_patch16_224.mae", {"global_pool": "avg"}, ODD, [EPS5, {"pool": "class"}]),
    "deit_s16_distilled": ("deit_small_distilled_patch16_224", {}, ODD, [EPS5, PLAIN, heads_swapped, token_unplaced]),
    "deit3_s16": ("deit3_small_patch16_224", {}, ODD, [PLAIN, EPS5, TANH]),
    "flexivit_s16": ("flexivit_small", {}, ODD, [PLAIN, BILINEAR, EPS5]),
    "dinov2_s14": ("vit_small_patch14_dinov2", {"num_classes": 7}, ODD14,
                   [PLAIN, {"position_resize": "offset"}, EPS5]),
    "dinov2_g14": ("vit_giant_patch14_dinov2", {"img_size": 70, "depth": 1}, (56, 98), [PLAIN]),
    "dinov2_s14_reg4": ("vit_small_patch14_reg4_dinov2", {}, ODD14, [PLAIN, EPS5]),
    "dinov3_s16": ("vit_small_patch16_dinov3_qkvb", {"num_classes": 7}, ODD,
                   [{"rope_bf16": True}, XY, other_order, {"pool": "class"}, {"eps": 1e-6}]),
    "dinov3_s16 no bias": ("vit_small_patch16_dinov3", {"global_pool": "token"}, ODD, [{"rope_bf16": True}]),
    "dinov3_s16plus": ("vit_small_plus_patch16_dinov3", {}, ODD, [EPS6, other_order]),
    "dinov3_s16plus bias": ("vit_small_plus_patch16_dinov3_qkvb", {}, ODD, [XY]),
    "beit_b16": ("beit_base_patch16_224", {}, ODD, [PLAIN, EPS5, TANH]),
    "beitv2_b16": ("beitv2_base_patch16_224", {}, ODD, [PLAIN, {"pool": "class"}]),
    "openclip_b16": ("vit_base_patch16_clip_224", {"num_classes": 512}, ODD, [QUICK, PLAIN]),
    "clip_b16": ("vit_base_patch16_clip_quickgelu_224", {"num_classes": 512}, ODD, [GELU, EPS6]),
    "siglip_b16": ("vit_base_patch16_siglip_224", {}, ODD, [TANH, PLAIN, EPS5]),
    "siglip2_b32": ("vit_base_patch32_siglip_256", {}, ODD, [GELU]),
    "siglip_so400m14": ("vit_so400m_patch14_siglip_224", {"img_size": 70}, (56, 98), [TANH]),
    "eva02_ti14": ("eva02_tiny_patch14_336", {}, ODD14, [other_order, XY, EPS5]),
    "eva02_s14": ("eva02_small_patch14_336", {}, ODD14, [{"rope_reference": None}]),
    "eva02_b14": ("eva02_base_patch14_448", {"img_size": 224}, ODD14, [{"rope_reference": None}, other_order, PLAIN]),
    "eva02_clip_b16": ("eva02_base_patch16_clip_224", {"num_classes": 512}, ODD, [EPS5, XY]),
    "pe_core_b16": ("vit_pe_core_base_patch16_224", {"num_classes": 1024}, ODD,
                    [{"rope_offset": 0.0}, YX, other_order, {"pool_heads": None}, EPS6]),
    "pe_spatial_b16": ("vit_pe_spatial_base_patch16_512", {"img_size": 160}, ODD,
                       [{"rope_offset": 0.0}, other_order, PLAIN]),
    "aimv2_l14": ("aimv2_large_patch14_224", {}, ODD14, [EPS6, PLAIN]),
    "naflexvit_b16_gap": ("naflexvit_base_patch16_gap", {"num_classes": 7}, ODD, [{"position_resize": "aspect"}]),
    "naflexvit_b16_par_gap": ("naflexvit_base_patch16_par_gap", {}, ODD, [ANTIALIAS]),
    "naflexvit_b16_map": ("naflexvit_base_patch16_map", {}, ODD, [{"pool_prefix": True}, EPS5]),
    "siglip2_b16_naflex": ("naflexvit_base_patch16_siglip", {}, ODD, [ANTIALIAS, GELU]),
    "rope_s16": ("vit_small_patch16_rope_224", {}, ODD, [YX, other_order, EPS5]),
    "rope_mixed_s16": ("vit_small_patch16_rope_mixed_224", {}, ODD, [YX, other_order]),
    "rope_ape_s16": ("vit_small_patch16_rope_ape_224", {}, ODD, [YX, other_order, PLAIN]),
}  # fmt: skip
Wrong = dict | Callable[[Classifier], Classifier]


def reference(name: str, **arguments):
    if not name.startswith(("beit", "naflex")):
        arguments["dynamic_img_size"] = True
    model = timm.create_model(name, **{"depth": DEPTH, **arguments}).eval()
    randomize(model)
    return model


@torch.inference_mode()
def theirs(model, size):
    if hasattr(model, "set_input_size") and not getattr(model, "dynamic_img_size", False):
        model.set_input_size(img_size=size)
    tokens = model.forward_features(images(*size))
    return {
        "patches": tokens[:, model.num_prefix_tokens :],
        "prefix": tokens[:, : model.num_prefix_tokens],
        "pooled": model.forward_head(tokens, pre_logits=True),
        "logits": model.forward_head(tokens),
    }


def largest_error(model: Classifier, answers: dict, size) -> float:
    mine = outputs(model, images(*size))
    if model.config.pool == "class_distill":  # timm's pooled features are the mean of the two tokens
        mine["pooled"] = sum(mine["pooled"].chunk(2, dim=1)) / 2
    return max(error(mine[key], answers[key]) for key in mine if answers[key].numel())


# timm's resizing of relative tables goes through torch.searchsorted and old indexing.
quiet = pytest.mark.filterwarnings("ignore:.*searchsorted.*:UserWarning", "ignore:Using a non-tuple seq:UserWarning")


def compare(name: str, other, odd_size, wrongs: list[Wrong]) -> None:
    state = {key: value.clone() for key, value in other.state_dict().items()}
    model = ours_from(name.split()[0], state, len(other.blocks))
    if other.global_pool == "token":  # the argument decides; the file does not tell
        model = with_fields(model, pool="class" if model.config.pool == "mean" else model.config.pool)
    answers = {size: theirs(other, size) for size in (model.config.encoder.image_size, odd_size)}
    for size, right in answers.items():
        assert largest_error(model, right, size) <= LIMIT, size
    for wrong in wrongs:
        bad = with_fields(model, **wrong) if isinstance(wrong, dict) else wrong(model)
        seen = any(largest_error(bad, right, size) > LIMIT for size, right in reversed(answers.items()))
        assert seen, f"{wrong} goes unnoticed"


@quiet
@pytest.mark.parametrize("name", CASES)
def test_features_and_logits_are_timms(name):
    other_name, arguments, odd_size, wrongs = CASES[name]
    compare(name, reference(other_name, **arguments), odd_size, wrongs)


@pytest.mark.slow
@quiet
@pytest.mark.parametrize("name", [row.name for row in MODELS.values() if row.timm])
def test_every_name_of_the_registry(name):
    """Its own width, heads and patch, few blocks, at a small native and another, non-square size."""
    row = MODELS[name]
    arguments = {"depth": 1 if row.size.width > 1300 else DEPTH}
    if row.family not in ("naflexvit", "naflexvit_par", "naflexvit_map", "siglip2_naflex"):
        arguments["img_size"] = 4 * row.patch
    compare(name, reference(row.timm, **arguments), (3 * row.patch, 5 * row.patch), [{"eps": 1e-3}])


@torch.inference_mode()
def errors(name: str) -> dict[str, float]:
    """For the README: the largest error at each size, "HxW" -> error."""
    other_name, arguments, odd_size, _ = CASES[name]
    other = reference(other_name, **arguments)
    model = ours_from(name.split()[0], dict(other.state_dict()), len(other.blocks))
    if other.global_pool == "token":
        model = with_fields(model, pool="class" if model.config.pool == "mean" else model.config.pool)
    sizes = (model.config.encoder.image_size, odd_size)
    return {"{}x{}".format(*size): largest_error(model, theirs(other, size), size) for size in sizes}


if __name__ == "__main__":
    for case in CASES:
        print(f"{case:<24}" + ", ".join(f"{error:.1e} at {size}" for size, error in errors(case).items()), flush=True)
