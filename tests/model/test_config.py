"""Names, sizes, and what a wrong configuration is told."""

import json

import pytest
import timm
import torch

from vit.errors import UserError
from vit.model.classifier import Classifier
from vit.model.config import SIZES, ClassifierConfig, EncoderConfig, changed, preset


@pytest.mark.parametrize(
    ("name", "timm_name", "options"),
    [
        ("vit_ti16", "vit_tiny_patch16_224", {}),
        ("vit_s16", "vit_small_patch16_224", {}),
        ("vit_m16", "vit_medium_patch16_gap_240", {"class_token": True, "global_pool": "token", "qkv_bias": True,
                                                   "init_values": 0, "fc_norm": False}),
        ("vit_b16", "vit_base_patch16_224", {}),
        ("vit_l16", "vit_large_patch16_224", {}),
        ("vit_so400m14", "vit_so400m_patch14_siglip_224", {"class_token": True, "global_pool": "token",
                                                           "no_embed_class": False}),
        ("vit_h14", "vit_huge_patch14_224", {}),
        ("vit_g14", "vit_giant_patch14_224", {}),
    ],
)  # fmt: skip
def test_sizes_have_timms_number_of_parameters(name, timm_name, options):
    with torch.device("meta"):
        ours = Classifier(preset(name))
        theirs = timm.create_model(timm_name, img_size=224, num_classes=1000, **options)
    # timm's class token has a position of its own.
    extra = ours.config.encoder.width
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) - extra


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_a_name(size):
    config = preset(f"vit_{size}16")
    assert tuple(config.encoder.__dict__[k] for k in ("width", "depth", "heads", "mlp")) == SIZES[size]


def test_flags_of_a_name():
    conv = preset("vit_nano4_conv").encoder
    assert (conv.stem, conv.patch_size, conv.grid) == ("conv", 4, (56, 56))
    rope = preset("vit_b16_rope").encoder
    assert rope.rope and rope.positions == "none"
    mean = preset("vit_b16_mean_conv")
    assert mean.pool == "mean" and not mean.encoder.class_token and mean.encoder.stem == "conv"
    assert preset("vit_so400m14").encoder.width == 1152


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vit_x16", r"No model is called 'vit_x16'.*vit_SIZE\+PATCH"),
        ("vit_nanno16", 'Did you mean "vit_nano16"'),
        ("resnet50", "No model is called"),
        ("vit_s16_cnv", "No model is called"),
        ("vit_s0", "patch"),
        ("vit_s300", "patch"),
        ("vit_s12_conv", "power of two"),
        ("", "No model is called"),
    ],
)
def test_wrong_names(name, told):
    with pytest.raises(UserError, match=told):
        preset(name)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"width": 100, "heads": 3}, "width 100 is not a multiple of heads 3"),
        ({"heads": 0}, "heads"),
        ({"depth": 0}, "at least 1"),
        ({"patch_size": 0}, "at least 1"),
        ({"image_size": (224, 225)}, "224x225 is not a multiple of the patch size 16"),
        ({"image_size": (0, 16)}, "0x16"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"attention_dropout": -0.1}, "attention_dropout"),
        ({"drop_path": float("nan")}, "drop_path"),
        ({"stem": "conv", "patch_size": 14}, "power of two as patch, got 14"),
        ({"width": 6, "heads": 1, "positions": "sincos"}, "a multiple of 4"),
        ({"width": 12, "heads": 6, "rope": True}, "a multiple of 4"),
        ({"widht": 12}, "no field 'widht'. Did you mean \"width\""),
    ],
)
def test_wrong_fields(fields, told):
    with pytest.raises(UserError, match=told):
        changed(EncoderConfig(), fields)


def test_pooling_by_a_class_token_needs_one():
    with pytest.raises(UserError, match="class_token=True"):
        ClassifierConfig(EncoderConfig(class_token=False), pool="class")
    with pytest.raises(UserError, match="num_classes"):
        ClassifierConfig(num_classes=-1)


@pytest.mark.parametrize("name", ["vit_nano4_conv_mean", "vit_s16", "vit_b16_rope"])
def test_json_round_trip(name):
    config = preset(name)
    again = ClassifierConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and hash(again) == hash(config)


def test_a_field_of_a_newer_version():
    values = preset("vit_s16").to_dict()
    values["encoder"]["mixture"] = 8
    with pytest.raises(UserError, match=r"encoder has no field 'mixture'\. Was it written by a newer vitral"):
        ClassifierConfig.from_dict(values)


def test_prefix_counts_class_token_and_registers():
    assert EncoderConfig(registers=4).prefix == 5
    assert EncoderConfig(class_token=False).prefix == 0
