"""The layouts in which authors publish: timm's own converters are the authority on their keys and conventions."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torchvision
from timm.models import eva, vision_transformer

from tests.pretrained.parity import LIMIT, error, outputs, with_fields
from tests.pretrained.random_weights import images, randomize
from vit.classifier import Classifier
from vit.config import Size
from vit.pretrained import clip_layouts, dino_layouts, google_layouts, huggingface_layouts, timm_layouts
from vit.pretrained.google_layouts import unstack
from vit.pretrained.load import from_public
from vit.pretrained.registry import find
from vit.pretrained.rules import write
from vit.pretrained.source import Source, open_source
from vit.pretrained.torchvision_layouts import TORCHVISION

VIT, EVA = vision_transformer.checkpoint_filter_fn, eva.checkpoint_filter_fn
# name, classes of the head, layout, what a file has before its keys and besides them, timm's name, timm's converter
CASES = {
    "clip": ("clip_b16", 512, clip_layouts.CLIP, "visual.", ("logit_scale", "transformer.resblocks.0.ln_1.weight"),
             "vit_base_patch16_clip_quickgelu_224", VIT),
    "dinov2": ("dinov2_s14", 0, dino_layouts.DINOV2, "", ("mask_token",), "vit_small_patch14_dinov2", VIT),
    "dinov2 swiglu": ("dinov2_g14", 0, dino_layouts.DINOV2, "", ("mask_token",), "vit_giant_patch14_dinov2", VIT),
    "dinov2 registers": ("dinov2_s14_reg4", 0, dino_layouts.DINOV2_REGISTERS, "", ("mask_token",),
                         "vit_small_patch14_reg4_dinov2", VIT),
    "deit3": ("deit3_s16", 10, timm_layouts.DEIT3, "", (), "deit3_small_patch16_224",
              partial(VIT, adapt_layer_scale=True)),
    "dinov3": ("dinov3_s16", 0, dino_layouts.DINOV3, "",
               ("mask_token", "rope_embed.periods", "blocks.0.attn.qkv.bias_mask"),
               "vit_small_patch16_dinov3_qkvb", EVA),
    "pe": ("pe_core_b16", 1024, clip_layouts.PE, "visual.", ("logit_scale",), "vit_pe_core_base_patch16_224", EVA),
    "eva02": ("eva02_clip_b16", 512, timm_layouts.EVA02, "visual.", ("logit_scale", "visual.rope.freqs_cos"),
              "eva02_base_patch16_clip_224", EVA),
    "aimv2": ("aimv2_l14", 0, huggingface_layouts.AIMV2_ORIGINAL, "", (), "aimv2_large_patch14_224", VIT),
}  # fmt: skip


def small(name: str):
    """The registry's row with two blocks, and the giant with a narrow one."""
    row = find(name)
    size = Size(96, 2, 6, 256) if name == "dinov2_g14" else row.size._replace(depth=2)
    return dataclasses.replace(row, size=size)


@pytest.mark.parametrize("case", CASES)
def test_timm_reads_the_original_as_we_do(case):
    name, classes, layout, prefix, besides, other_name, convert = CASES[case]
    row = small(name)
    config = dataclasses.replace(row.config, num_classes=classes)
    if case == "pe":  # its projection has no bias; timm adds one of zeros
        config = dataclasses.replace(config, head_bias=False)
    start = Classifier(config).eval()
    randomize(start)
    state = write(layout, config, dict(start.state_dict()), prefix)
    state |= {key: torch.ones(3) for key in besides}
    arguments = {"num_classes": classes, "depth": 2}
    if "dinov" in case:
        arguments |= {"dynamic_img_size": True, "global_pool": "token"}
    if name == "dinov2_g14":
        arguments |= {"embed_dim": 96, "num_heads": 6}
    other = timm.create_model(other_name, **arguments).eval()
    other.load_state_dict(convert({key: value.clone() for key, value in state.items()}, other))
    loaded = from_public(row, Source.of(state, case))
    model = loaded.model
    assert all(any(word in note for note in loaded.notes) for word in ("left out",) if besides)
    if case == "dinov3":  # the original rounds its periods to bfloat16, timm does not
        assert model.config.encoder.rope_bf16
        other.rope.periods.copy_(other.rope.periods.bfloat16().float())
    x = images(*config.encoder.image_size)
    mine = outputs(model, x)
    with torch.inference_mode():
        tokens = other.forward_features(x)
        worst = error(mine["patches"], tokens[:, other.num_prefix_tokens :])
        worst = max(worst, error(mine["logits"], other.forward_head(tokens)))
    assert worst <= LIMIT
    for key, value in outputs(with_fields(start, rope_bf16=model.config.encoder.rope_bf16), x).items():
        torch.testing.assert_close(mine[key], value, rtol=0, atol=0)


def as_npz(path, layout, config, model, prefix=""):
    tensors = write(layout, config, dict(model.state_dict()))
    np.savez(path, **{prefix + name: value.numpy() for name, value in tensors.items()})


@pytest.mark.parametrize("kind", ["vit_jax", "big_vision", "big_vision stacked"])
def test_google_files_are_read_as_timm_reads_them(tmp_path, kind):
    name = "vit_ti16" if kind == "vit_jax" else "siglip2_b16"
    row = small(name)
    other_name = "vit_tiny_patch16_224" if kind == "vit_jax" else "vit_base_patch16_siglip_224"
    layout = google_layouts.VIT_JAX if kind == "vit_jax" else google_layouts.BIG_VISION
    classes = 21 if kind == "vit_jax" else 0
    config = dataclasses.replace(row.config, num_classes=classes)
    start = Classifier(config).eval()
    randomize(start)
    file = tmp_path / "x.npz"
    as_npz(file, layout, config, start, "" if kind == "vit_jax" else "params/img/")
    other = timm.create_model(other_name, depth=2, num_classes=classes).eval()
    other.load_pretrained(str(file))
    for module in other.modules():  # flax's default is the tanh approximation, timm runs the exact GELU
        if isinstance(module, torch.nn.GELU):
            module.approximate = "tanh"
        elif type(module).__name__ == "Mlp":
            module.act = torch.nn.GELU(approximate="tanh")
    source = open_source(file)
    if kind == "big_vision stacked":
        source = stacked(source)
        assert not any("encoderblock_0" in key for key in source.shapes)
    model = from_public(row, source).model
    x = images(224, 224)
    mine = outputs(model, x)
    with torch.inference_mode():
        tokens = other.forward_features(x)
        worst = error(mine["patches"], tokens[:, other.num_prefix_tokens :])
        worst = max(worst, error(mine["pooled"], other.forward_head(tokens, pre_logits=True)))
    assert worst <= LIMIT
    assert unstack(open_source(file)).shapes == open_source(file).shapes


def stacked(source: Source) -> Source:
    """The same with big_vision's scanned blocks: one tensor for all of them."""
    tensors = {key: source.get(key) for key in source.shapes if "encoderblock_" not in key}
    for key in source.shapes:
        if "encoderblock_0" in key:
            parts = [source.get(key.replace("encoderblock_0", f"encoderblock_{i}")) for i in range(2)]
            tensors[key.replace("encoderblock_0", "encoderblock")] = torch.stack(parts)
    return Source.of(tensors, "stacked")


@pytest.mark.parametrize("name", ["b_16", "l_32"])
def test_torchvision(name):
    row = find("tv_" + name.replace("_", ""))
    width, patch, heads, mlp = row.size.width, row.patch, row.size.heads, row.size.mlp
    other = torchvision.models.VisionTransformer(224, patch, 2, heads, width, mlp, num_classes=9).eval()
    randomize(other)
    row = small("tv_" + name.replace("_", ""))
    model = from_public(row, Source.of(dict(other.state_dict()), name)).model
    x = images(224, 224)
    with torch.inference_mode():
        assert error(outputs(model, x)["logits"], other(x)) <= LIMIT
        assert error(with_fields(model, activation="gelu_tanh")(x), other(x)) > LIMIT
    # Another size, by torchvision's own function (it knows squares only).
    larger = torchvision.models.vision_transformer.interpolate_embeddings(320, patch, dict(other.state_dict()))
    bigger = torchvision.models.VisionTransformer(320, patch, 2, heads, width, mlp, num_classes=9).eval()
    bigger.load_state_dict(larger)
    x = images(320, 320)
    with torch.inference_mode():
        assert error(outputs(model, x)["logits"], bigger(x)) <= LIMIT
        assert error(with_fields(model, position_resize="plain")(x), bigger(x)) > LIMIT
    written = write(TORCHVISION, model.config, dict(model.state_dict()))
    assert written.keys() == other.state_dict().keys()
    assert all(torch.equal(written[key], value) for key, value in other.state_dict().items())


def test_dinov2_positions_are_resized_with_the_offset():
    """The original's rule, written out from its paper's code: bicubic, no antialiasing, scale (h + .1) / h0."""
    row = small("dinov2_s14")
    start = Classifier(row.config)
    randomize(start)
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


def test_mae_files_with_their_decoder():
    row = small("mae_b16")
    start = Classifier(row.config)
    randomize(start)
    state = write(timm_layouts.MAE, row.config, dict(start.state_dict()))
    state |= {
        "decoder_embed.weight": torch.ones(2, 2),
        "decoder_blocks.0.norm1.weight": torch.ones(2),
        "mask_token": torch.ones(1),
    }
    loaded = from_public(row, Source.of(state, "mae"))
    assert "the decoder" in loaded.notes[0]
    for key, value in loaded.model.state_dict().items():
        assert torch.equal(value, start.state_dict()[key])
    assert loaded.model.config.encoder.position_resize == "plain"
