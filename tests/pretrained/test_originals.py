"""The layouts in which authors publish: timm's own converters are the authority on their keys and conventions."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torchvision
from timm.layers import resample_patch_embed
from timm.models import eva, vision_transformer

from tests.pretrained.parity import LIMIT, error, outputs, random_model, with_fields
from tests.pretrained.random_weights import images, randomize
from vit.model.config import Size
from vit.model.position import resize_grid
from vit.model.resize import resize_kernel
from vit.pretrained.files.source import Source, open_source
from vit.pretrained.layouts import clip as clip_layouts
from vit.pretrained.layouts import dino as dino_layouts
from vit.pretrained.layouts import google as google_layouts
from vit.pretrained.layouts import huggingface_towers
from vit.pretrained.layouts import timm as timm_layouts
from vit.pretrained.layouts.google import unstack
from vit.pretrained.layouts.rules import write
from vit.pretrained.layouts.torchvision import TORCHVISION
from vit.pretrained.load import adapted, from_public
from vit.pretrained.registry.find import find

VIT, EVA = vision_transformer.checkpoint_filter_fn, eva.checkpoint_filter_fn
FUSED = dataclasses.replace(  # the small sizes of EVA-02 have fused matrices
    timm_layouts.EVA02, rows=tuple(row for row in timm_layouts.EVA02.rows if "{" not in row[1])
)
MASKS = ("mask_token", "rope_embed.periods", "blocks.0.attn.qkv.bias_mask")
DINO = {"dynamic_img_size": True, "global_pool": "token"}


def without_decoder(state, model):
    return {key: value for key, value in state.items() if not key.startswith(("decoder", "mask_token"))}


# case: name, classes of the head, layout, what a file has before its keys and besides them, timm's name and arguments,
# timm's converter
CASES = {
    "clip": ("clip_b16", 512, clip_layouts.CLIP, "visual.", ("logit_scale", "transformer.resblocks.0.ln_1.weight"),
             "vit_base_patch16_clip_quickgelu_224", {}, VIT),
    "openclip": ("openclip_b32", 512, clip_layouts.CLIP, "visual.", ("logit_scale",),
                 "vit_base_patch32_clip_224", {}, VIT),
    "dino": ("dino_s8", 0, timm_layouts.TIMM, "", (), "vit_small_patch8_224", {}, VIT),
    "mae": ("mae_b16", 0, timm_layouts.MAE, "", ("decoder_embed.weight", "decoder_blocks.0.norm1.bias", "mask_token"),
            "vit_base_patch16_224", {}, without_decoder),
    "dinov2": ("dinov2_s14", 0, dino_layouts.DINOV2, "", ("mask_token",), "vit_small_patch14_dinov2", DINO, VIT),
    "dinov2 swiglu": ("dinov2_g14", 0, dino_layouts.DINOV2, "", ("mask_token",), "vit_giant_patch14_dinov2",
                      {**DINO, "embed_dim": 96, "num_heads": 6}, VIT),
    "dinov2 registers": ("dinov2_s14_reg4", 0, dino_layouts.DINOV2_REGISTERS, "", ("mask_token",),
                         "vit_small_patch14_reg4_dinov2", DINO, VIT),
    "deit3": ("deit3_s16", 10, timm_layouts.DEIT3, "", (), "deit3_small_patch16_224", {},
              partial(VIT, adapt_layer_scale=True)),
    "dinov3": ("dinov3_s16", 0, dino_layouts.DINOV3, "", MASKS, "vit_small_patch16_dinov3_qkvb", DINO, EVA),
    "dinov3 swiglu": ("dinov3_s16plus", 0, dino_layouts.DINOV3, "", MASKS, "vit_small_plus_patch16_dinov3_qkvb", DINO,
                      EVA),
    "pe": ("pe_core_b16", 1024, clip_layouts.PE, "visual.", ("logit_scale",), "vit_pe_core_base_patch16_224", {}, EVA),
    "pe spatial": ("pe_spatial_b16", 0, clip_layouts.PE_SPATIAL, "", (), "vit_pe_spatial_base_patch16_512",
                   {"img_size": 160, "ref_feat_shape": (10, 10)}, EVA),
    "eva02 small": ("eva02_ti14", 7, FUSED, "", ("rope.freqs_cos",), "eva02_tiny_patch14_336", {}, EVA),
    "eva02 base": ("eva02_b14", 7, timm_layouts.EVA02, "", ("rope.freqs_cos",), "eva02_base_patch14_448",
                   {"img_size": 224}, EVA),
    "eva02 clip": ("eva02_clip_b16", 512, timm_layouts.EVA02, "visual.", ("logit_scale", "visual.rope.freqs_cos"),
                   "eva02_base_patch16_clip_224", {}, EVA),
    "aimv2": ("aimv2_l14", 0, huggingface_towers.AIMV2_ORIGINAL, "", (), "aimv2_large_patch14_224", {}, VIT),
}  # fmt: skip


def small(name: str):
    """The registry's row with two blocks, and the giant with a narrow one."""
    row = find(name)
    size = Size(96, 2, 6, 256) if name == "dinov2_g14" else row.size._replace(depth=2)
    return dataclasses.replace(row, size=size)


@pytest.mark.parametrize("case", CASES)
def test_timm_reads_the_original_as_we_do(case):
    name, classes, layout, prefix, besides, other_name, arguments, convert = CASES[case]
    row = small(name)
    config = dataclasses.replace(row.config, num_classes=classes)
    if "img_size" in arguments:
        side = arguments["img_size"]
        config = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, image_size=(side, side)))
    if case == "pe":  # its projection has no bias; timm adds one of zeros
        config = dataclasses.replace(config, head_bias=False)
    start = random_model(config)
    state = write(layout, config, dict(start.state_dict()), prefix)
    state |= {key: torch.ones(3) for key in besides}
    other = timm.create_model(other_name, **{"depth": 2, "num_classes": classes, **arguments}).eval()
    other.load_state_dict(convert({key: value.clone() for key, value in state.items()}, other))
    loaded = from_public(row, Source.of(state, case))
    model = loaded.model
    assert all(any(word in note for note in loaded.notes) for word in ("Left out",) if besides)
    if "dinov3" in case:  # the original rounds its periods to bfloat16, timm does not
        assert model.config.encoder.rope_bf16
        other.rope.periods.copy_(other.rope.periods.bfloat16().float())
    sizes = [config.encoder.image_size]
    if model.config.encoder.position_resize == "antialias" and getattr(other, "dynamic_img_size", False):
        sizes.append((5 * row.patch, 9 * row.patch))  # the original's rule is timm's
    for size in sizes:
        x = images(*size)
        mine = outputs(model, x)
        with torch.inference_mode():
            tokens = other.forward_features(x)
            worst = error(mine["patches"], tokens[:, other.num_prefix_tokens :])
            worst = max(worst, error(mine["logits"], other.forward_head(tokens)))
        assert worst <= LIMIT, size
    again = dict(model.state_dict())
    assert all(torch.equal(again[key], value) for key, value in start.state_dict().items())


RULES = {
    "plain": {"mode": "bicubic"},
    "plain_bilinear": {"mode": "bilinear"},
    "antialias": {"mode": "bicubic", "antialias": True},
}


@pytest.mark.parametrize(("layout", "rule"), [
    (timm_layouts.DEIT3, "plain"), (timm_layouts.MAE, "plain"), (timm_layouts.EVA02, "plain"),
    (huggingface_towers.AIMV2_ORIGINAL, "plain"), (clip_layouts.PE, "plain_bilinear"),
    (clip_layouts.PE_SPATIAL, "plain_bilinear"), (clip_layouts.CLIP, "antialias"),
    (dino_layouts.DINOV2_REGISTERS, "antialias"),
])  # fmt: skip
def test_each_original_resizes_positions_by_its_own_rule(layout, rule):
    """Its call of torch's interpolate, written out; the other rules are far from it."""
    assert layout.resize is not None
    grid = torch.randn(1, 14 * 14, 8, generator=torch.Generator().manual_seed(0))
    planes = grid.view(1, 14, 14, 8).permute(0, 3, 1, 2)
    right = torch.nn.functional.interpolate(planes, size=(9, 18), **RULES[rule]).flatten(2).transpose(1, 2)
    assert error(resize_grid(grid, (14, 14), (9, 18), rule=layout.resize), right) <= LIMIT
    for other in {"plain", "plain_bilinear", "antialias", "offset"} - {rule}:
        assert error(resize_grid(grid, (14, 14), (9, 18), rule=other), right) > 1e-2


def test_the_perception_encoder_numbers_any_grid_from_one():
    """Its own code scales nothing; timm's scales to the native grid. They agree there and nowhere else."""
    row = small("pe_core_b16")
    start = random_model(dataclasses.replace(row.config, head_bias=False))
    originals = from_public(row, Source.of(write(clip_layouts.PE, start.config, dict(start.state_dict())), "pe")).model
    timms = from_public(row, Source.of(write(timm_layouts.TIMM, start.config, dict(start.state_dict())), "pe")).model
    place = originals.encoder.config
    assert place.rope_reference is None and timms.encoder.config.rope_reference == (14, 14)
    cos, sin = originals.encoder.ropes((3, 5), torch.device("cpu"))[0]
    column, row_number = torch.meshgrid(torch.arange(5) + 1.0, torch.arange(3) + 1.0, indexing="xy")
    period = 10_000 ** (torch.arange(16) / 16)
    angle = torch.cat([column.reshape(-1, 1) / period, row_number.reshape(-1, 1) / period], dim=1)
    assert error(cos[1:, :32], angle.cos()) <= LIMIT and error(sin[1:, 32:], angle.sin()) <= LIMIT
    assert error(timms.encoder.ropes((3, 5), torch.device("cpu"))[0][0], cos) > 1e-2
    same = [model.encoder.ropes((14, 14), torch.device("cpu"))[0][0] for model in (originals, timms)]
    assert error(*same) <= LIMIT


# kind: our name, timm's, layout, what stands before its keys, classes, size in pixels, the negative checks
GOOGLE = {
    "vit_jax": ("vit_ti16", "vit_tiny_patch16_224", google_layouts.VIT_JAX, "", 21, (224, 224),
                [{"activation": "gelu"}, {"eps": 1e-5}]),
    "big_vision": ("siglip2_b16", "vit_base_patch16_siglip_224", google_layouts.BIG_VISION, "params/img/", 0,
                   (224, 224), [{"activation": "gelu"}]),
    "big_vision, stacked": ("siglip_b16", "vit_base_patch16_siglip_224", google_layouts.BIG_VISION, "params/img/", 0,
                            (224, 224), [{"eps": 1e-5}]),
    "flexivit": ("flexivit_s16", "flexivit_small", google_layouts.FLEXIVIT, "params/", 9, (240, 240),
                 [{"activation": "gelu"}]),
    "naflex": ("siglip2_b16_naflex", "naflexvit_base_patch16_siglip", google_layouts.NAFLEX, "params/img/", 0,
               (96, 160), [{"activation": "gelu"}, {"position_resize": "zoom"}]),
}  # fmt: skip


@pytest.mark.parametrize("kind", GOOGLE)
def test_google_files_are_read_as_timm_reads_them(tmp_path, kind):
    name, other_name, layout, prefix, classes, size, wrongs = GOOGLE[kind]
    row = small(name)
    config = dataclasses.replace(row.config, num_classes=classes)
    if kind == "flexivit":  # the public files: one kernel of 32 pixels and 7 x 7 positions for every patch size
        encoder = dataclasses.replace(config.encoder, patch_size=32, image_size=(224, 224))
        config = dataclasses.replace(config, encoder=encoder)
    start = random_model(config)
    file = tmp_path / "x.npz"
    tensors = write(layout, config, dict(start.state_dict()))
    np.savez(file, **{prefix + key: value.numpy() for key, value in tensors.items()})
    other = timm.create_model(other_name, depth=2, num_classes=classes).eval()
    other.load_pretrained(str(file))
    for module in other.modules():  # flax's default is the tanh approximation, timm runs the exact GELU
        if isinstance(module, torch.nn.GELU):
            module.approximate = "tanh"
        elif type(module).__name__ == "Mlp":
            module.act = torch.nn.GELU(approximate="tanh")
    source = open_source(file)
    assert unstack(source).shapes == source.shapes
    if kind.endswith("stacked"):
        source = stacked(source)
        assert not any("encoderblock_0" in key for key in source.shapes)
    loaded = from_public(row, source)
    if kind == "flexivit":
        loaded = adapted(loaded, None, 240, None, {"patch_size": 16})
        assert any("pseudo-inverse" in note for note in loaded.notes)
    x = images(*size)
    with torch.inference_mode():
        tokens = other.forward_features(x)
        answers = {
            "patches": tokens[:, other.num_prefix_tokens :],
            "pooled": other.forward_head(tokens, pre_logits=True),
            "logits": other.forward_head(tokens),
        }

    def worst(model) -> float:
        mine = outputs(model, x)
        return max(error(mine[key], value) for key, value in answers.items())

    assert worst(loaded.model) <= LIMIT
    for fields in wrongs:
        assert worst(with_fields(loaded.model, **fields)) > LIMIT, f"{fields} goes unnoticed"


def test_vit_jax_resizes_positions_as_scipy_zooms():
    """The rule of both code bases, by the function that they call."""
    from scipy.ndimage import zoom

    grid = torch.randn(1, 14 * 14, 8, generator=torch.Generator().manual_seed(0))
    ours = resize_grid(grid, (14, 14), (9, 18), rule=google_layouts.VIT_JAX.resize)
    right = zoom(grid.view(14, 14, 8).numpy(), (9 / 14, 18 / 14, 1), order=1)
    assert google_layouts.BIG_VISION.resize == google_layouts.VIT_JAX.resize
    assert error(ours, torch.from_numpy(right).reshape(1, 9 * 18, 8)) <= LIMIT
    wrong = resize_grid(grid, (14, 14), (9, 18), rule="bilinear")
    assert error(wrong, torch.from_numpy(right).reshape(1, 9 * 18, 8)) > 1e-2


@pytest.mark.parametrize("patch", [8, 12, 32])
def test_a_flexivit_kernel_takes_the_patch_size_that_it_is_asked_for(patch):
    """timm's way from timm's file: bicubic; big_vision's from its own: bilinear."""
    kernel = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for rule, interpolation in (("bicubic", "bicubic"), ("bilinear", "bilinear")):
        right = resample_patch_embed(kernel, [patch, patch], interpolation=interpolation, antialias=rule == "bicubic")
        ours = resize_kernel(kernel.flatten(1), 3, 16, patch, rule=rule).view_as(right)
        assert error(ours, right) <= LIMIT
        other = resize_kernel(kernel.flatten(1), 3, 16, patch, rule="bilinear" if rule == "bicubic" else "bicubic")
        assert error(other.view_as(right), right) > 1e-3


def stacked(source: Source) -> Source:
    """The same with big_vision's scanned blocks: one tensor for all of them."""
    tensors = {key: source.get(key) for key in source.shapes if "encoderblock_" not in key}
    for key in source.shapes:
        if "encoderblock_0" in key:
            parts = [source.get(key.replace("encoderblock_0", f"encoderblock_{i}")) for i in range(2)]
            tensors[key.replace("encoderblock_0", "encoderblock")] = torch.stack(parts)
    return Source.of(tensors, "stacked")


@pytest.mark.parametrize("name", ["b_16", "b_32", "l_16", "l_32", "h_14"])
def test_torchvision(name):
    """At its native and at another size, both square: torchvision's class takes nothing else."""
    row = small("tv_" + name.replace("_", ""))
    width, patch, heads, mlp = row.size.width, row.patch, row.size.heads, row.size.mlp
    side = 224 if name == "b_16" else 3 * patch
    other = torchvision.models.VisionTransformer(side, patch, 2, heads, width, mlp, num_classes=9).eval()
    randomize(other)
    model = from_public(row, Source.of(dict(other.state_dict()), name)).model
    resize = torchvision.models.vision_transformer.interpolate_embeddings
    larger = resize(5 * patch, patch, dict(other.state_dict()))
    bigger = torchvision.models.VisionTransformer(5 * patch, patch, 2, heads, width, mlp, num_classes=9).eval()
    bigger.load_state_dict(larger)
    for reference, size in ((other, side), (bigger, 5 * patch)):
        x = images(size, size)
        mine = outputs(model, x)
        with torch.inference_mode():
            token = reference.class_token.expand(len(x), -1, -1)
            tokens = reference.encoder(torch.cat([token, reference._process_input(x)], dim=1))
            assert error(mine["patches"], tokens[:, 1:]) <= LIMIT
            assert error(mine["pooled"], tokens[:, 0]) <= LIMIT
            logits = reference(x)
        assert error(mine["logits"], logits) <= LIMIT
    for fields in ({"activation": "gelu_tanh"}, {"position_resize": "plain"}, {"eps": 1e-5}):
        wrong = with_fields(model, **fields)
        assert error(outputs(wrong, x)["logits"], logits) > LIMIT, f"{fields} goes unnoticed"
    written = write(TORCHVISION, model.config, dict(model.state_dict()))
    assert written.keys() == other.state_dict().keys()
    assert all(torch.equal(written[key], value) for key, value in other.state_dict().items())


def test_dinov2_positions_are_resized_with_the_offset():
    """The original's rule, written out from its paper's code: bicubic, no antialiasing, scale (h + .1) / h0."""
    row = small("dinov2_s14")
    start = random_model(row.config)
    state = write(dino_layouts.DINOV2, row.config, dict(start.state_dict())) | {"mask_token": torch.zeros(1, 384)}
    model = from_public(row, Source.of(state, "dinov2")).model
    h, w, n = 16, 23, 37
    grid = model.encoder.pos_embed[:, 1:].reshape(1, n, n, 384).permute(0, 3, 1, 2)
    resize = partial(torch.nn.functional.interpolate, mode="bicubic", align_corners=False)
    right = resize(grid, scale_factor=((h + 0.1) / n, (w + 0.1) / n))
    assert right.shape[-2:] == (h, w)
    ours = model.encoder._positions((h, w), right)[:, 1:]
    torch.testing.assert_close(ours, right.flatten(2).transpose(1, 2), rtol=0, atol=0)
    ours = ours.detach()
    wrong = resize(grid, size=(h, w)).detach().flatten(2).transpose(1, 2)
    assert float((ours - wrong).abs().max() / wrong.abs().max()) > 1e-3
