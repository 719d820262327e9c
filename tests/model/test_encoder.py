"""Encoder and Classifier against timm's VisionTransformer with the same weights.

The weights are drawn large, so that logits vary by tens and a wrong variant (another GELU, another eps) is seen:
`test_a_wrong_variant_is_seen` keeps that honest.
"""

from dataclasses import replace

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vit.errors import UserError
from vit.model.classifier import Classifier, create
from vit.model.config import ClassifierConfig, EncoderConfig
from vit.model.encoder import Encoder

WIDTH, HEADS, P, SIZE = 24, 3, 4, (16, 24)

CASES = {
    "class_token": ({}, {}, {}),
    "class_token_apart_from_positions": ({"no_embed_class": True}, {}, {}),
    "mean_and_fc_norm": (
        {"global_pool": "avg", "class_token": False},
        {"class_token": False, "final_norm": False},
        {"pool": "mean", "pool_norm": True},
    ),
    "mean_beside_a_class_token": ({"global_pool": "avg", "fc_norm": False}, {}, {"pool": "mean"}),
    "registers": ({"reg_tokens": 3, "no_embed_class": True}, {"registers": 3}, {}),
    "attention_pool": (
        {"global_pool": "map", "class_token": False},
        {"class_token": False},
        {"pool": "attention"},
    ),
    "layer_scale_and_no_qkv_bias": (
        {"init_values": 0.1, "qkv_bias": False},
        {"layer_scale": 0.1, "qkv_bias": False},
        {},
    ),
    "qk_norm": ({"qk_norm": True}, {"qk_norm": True}, {}),
}


def make(case, size=SIZE):
    """timm's model with large random weights, and ours with the same."""
    theirs_options, encoder, classifier = CASES[case]
    theirs = VisionTransformer(
        img_size=size,
        patch_size=P,
        embed_dim=WIDTH,
        depth=3,
        num_heads=HEADS,
        mlp_ratio=2,
        num_classes=5,
        dynamic_img_size=True,
        weight_init="skip",
        **theirs_options,
    ).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in theirs.named_parameters():
        base = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        # Small embeddings: there an eps matters. Large blocks: there an activation does.
        embeds = name.startswith(("patch_embed", "pos_embed", "cls_token", "reg_token"))
        scale = 0.02 if embeds else 1.0 / parameter[0].numel() ** 0.5 if parameter.ndim == 2 else 0.5
        parameter.data = base + scale * torch.randn(parameter.shape, generator=generator)
    config = EncoderConfig(width=WIDTH, depth=3, heads=HEADS, mlp=2 * WIDTH, patch_size=P, image_size=size, **encoder)
    ours = Classifier(ClassifierConfig(config, num_classes=5, **classifier)).eval()
    ours.load_state_dict(translated(theirs, ours.config))
    return ours, theirs


def translated(theirs, config):
    """timm's weights under our names. Its class token has a position of its own, ours is the sum of both."""
    result = {}
    for name, value in theirs.state_dict().items():
        if name == "patch_embed.proj.weight":
            value = value.flatten(1)
        if name == "pos_embed" and value.shape[1] > config.encoder.grid[0] * config.encoder.grid[1]:
            result["encoder.cls_token"] += value[:, :1]  # state_dict gives cls_token first
            value = value[:, 1:]
        if name.startswith(("head.", "attn_pool.")):
            result[name] = value
        elif name.startswith("fc_norm."):
            result[name.replace("fc_norm", "pool_norm")] = value
        else:
            result[f"encoder.{name}"] = value.clone()
    if "attn_pool.latent" in result:
        result["attn_pool.probe"] = result.pop("attn_pool.latent")
        for kind in ("weight", "bias"):
            parts = [result.pop(f"attn_pool.{part}.{kind}") for part in ("q", "kv")]
            result[f"attn_pool.attn.qkv.{kind}"] = torch.cat(parts)
            result[f"attn_pool.attn.proj.{kind}"] = result.pop(f"attn_pool.proj.{kind}")
    return result


def error(ours, theirs, images):
    """The largest difference of logits in units of the largest logit."""
    with torch.no_grad():
        expected = theirs(images)
        return float((ours(images) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("size", [SIZE, (20, 8), (32, 48)], ids=["native", "smaller", "larger"])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_timms(case, size):
    ours, theirs = make(case)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    assert error(ours, theirs, images) < 1e-5


@pytest.mark.parametrize("wrong", [{"activation": "gelu_tanh"}, {"activation": "quick_gelu"}, {"eps": 1e-5}], ids=str)
def test_a_wrong_variant_is_seen(wrong):
    ours, theirs = make("class_token")
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    variant = Classifier(replace(ours.config, encoder=replace(ours.config.encoder, **wrong))).eval()
    variant.load_state_dict(ours.state_dict())
    assert error(variant, theirs, images) > 3e-5 > 10 * error(ours, theirs, images)


@pytest.mark.parametrize("case", ["class_token", "registers", "mean_and_fc_norm"])
def test_tokens_are_timms(case):
    ours, theirs = make(case)
    images = torch.randn(2, 3, 20, 8)
    tokens = ours.forward_features(images)
    everything = torch.cat([tokens.prefix, tokens.patches], dim=1)
    torch.testing.assert_close(everything, theirs.forward_features(images), rtol=1e-4, atol=1e-4)
    assert tokens.grid == (5, 2)
    assert tokens.prefix.shape[1] == theirs.num_prefix_tokens


@pytest.mark.parametrize("fields", [{}, {"stem": "conv"}, {"positions": "sincos"}, {"positions": "none", "rope": True}])
def test_batched_equals_single(fields):
    torch.manual_seed(0)
    config = EncoderConfig(width=24, depth=2, heads=3, mlp=48, patch_size=4, image_size=(16, 16), **fields)
    encoder = Encoder(config).eval()
    images = torch.randn(3, 3, 12, 20)
    batched = encoder(images)
    assert batched.grid == (3, 5) and batched.patches.shape == (3, 15, 24)
    for i in range(3):
        single = encoder(images[i : i + 1])
        torch.testing.assert_close(batched.patches[i], single.patches[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(batched.prefix[i], single.prefix[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"positions": "sincos"}, {"positions": "none", "rope": True}])
def test_every_kind_of_position_is_used(fields):
    """Without positions the output for permuted patches is the permuted output."""
    torch.manual_seed(0)
    config = EncoderConfig(width=24, depth=1, heads=3, mlp=24, patch_size=2, image_size=(4, 4), **fields)

    @torch.no_grad()
    def moved(config):
        encoder = Encoder(config).eval()
        for block in encoder.blocks:
            nn.init.normal_(block.attn.qkv.weight)
        if encoder.pos_embed is not None:
            nn.init.normal_(encoder.pos_embed)
        images = torch.randn(1, 3, 4, 4)
        flipped = encoder(images.unflatten(3, (2, 2)).flip(3).flatten(3)).patches.unflatten(1, (2, 2)).flip(2)
        return float((encoder(images).patches.unflatten(1, (2, 2)) - flipped).abs().max())

    assert moved(config) > 1e-3
    assert moved(replace(config, positions="none", rope=False)) < 1e-5


def test_an_image_that_does_not_divide_into_patches():
    with pytest.raises(UserError, match=r"30x32 pixels do not divide .* 4x4: resize them to multiples of 4"):
        create("vit_nano4", image_size=32)(torch.zeros(1, 3, 30, 32))


def test_drop_path_grows_linearly_with_depth():
    encoder = Encoder(EncoderConfig(width=8, depth=5, heads=1, mlp=8, drop_path=0.2))
    assert [block.drop_path.rate for block in encoder.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_create():
    model = create("vit_nano8_conv_mean", num_classes=7, image_size=(32, 48), in_chans=1, drop_path=0.1)
    assert model(torch.randn(2, 1, 32, 48)).shape == (2, 7)
    assert model.config.encoder.image_size == (32, 48) and model.encoder.cls_token is None
    features = create("vit_nano8", num_classes=0, image_size=32)(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, 128)
    with pytest.raises(UserError, match=r"no field 'drop_pth'\. Did you mean \"drop_path\""):
        create("vit_s16", drop_pth=0.1)


@torch.no_grad()
def test_initial_weights_follow_the_table():
    torch.manual_seed(0)
    encoder = create("vit_nano4_conv", image_size=32, registers=2, layer_scale=1e-4).encoder
    for block in encoder.blocks:
        assert 0.015 < float(block.mlp.fc1.weight.std()) < 0.021
        assert not block.attn.qkv.bias.any() and not block.mlp.fc2.bias.any()
        assert float(block.ls1.gamma[0]) == pytest.approx(1e-4)
    for tokens in (encoder.pos_embed, encoder.reg_token):
        assert 0.01 < float(tokens.std()) < 0.03
    assert 0 < float(encoder.cls_token.abs().max()) < 1e-5
    second = encoder.patch_embed.convs[3].weight
    assert float(second.std()) == pytest.approx((2 / (second.shape[0] * 9)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    "fields",
    [{}, {"rope": True, "positions": "none"}, {"relative_positions": True}],
    ids=["learned", "rope", "relative"],
)
def test_dropped_patches_are_as_if_never_there(fields: dict):
    """What is left keeps its place: leaving out the dropped ones by a mask gives the same tokens."""
    torch.manual_seed(0)
    config = EncoderConfig(32, 2, 4, 64, patch_size=8, image_size=(32, 32), patch_dropout=0.5, **fields)
    encoder = Encoder(config).train()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    images = torch.randn(3, 3, 32, 32)
    torch.manual_seed(5)
    thin = encoder(images)
    assert thin.patches.shape == (3, 8, 32) and thin.prefix.shape == (3, 1, 32)
    torch.manual_seed(5)
    kept = torch.rand(3, 16).argsort(1)[:, :8].sort(1).values + 1
    seen = torch.zeros(3, 17, dtype=torch.bool).scatter(1, kept, True)
    seen[:, 0] = True
    x, grid = encoder.embed(images)
    for block, rope, mask in zip(
        encoder.blocks, encoder.ropes(grid, x.device), encoder.masks(grid, x.device), strict=True
    ):
        hidden = torch.where(seen[:, None, None], 0.0, -torch.inf)
        x = block(x, mask=hidden if mask is None else mask + hidden, rope=rope)
    x = encoder.norm(x)
    torch.testing.assert_close(thin.prefix, x[:, :1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(thin.patches, x.gather(1, kept[..., None].expand(-1, -1, 32)), rtol=1e-4, atol=1e-5)
    assert encoder.eval()(images).patches.shape == (3, 16, 32)
