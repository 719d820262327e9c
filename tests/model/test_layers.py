"""The parts of a ViT against torch's own, and the derivatives of a Block against finite differences."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vit.model.attention import Attention
from vit.model.config import EncoderConfig
from vit.model.layers import Block, DropPath, LayerScale, Mlp, SwiGLU
from vit.model.patches import ConvPatches, LinearPatches
from vit.model.position import axial_rope, patch_coordinates

B, N, M, D, HEADS = 3, 5, 7, 12, 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def pair():
    """Our attention and torch's, with the same weights, in float64."""
    ours = Attention(D, HEADS).double()
    theirs = nn.MultiheadAttention(D, HEADS, batch_first=True, dtype=torch.float64)
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    ours.qkv.load_state_dict({"weight": theirs.in_proj_weight, "bias": theirs.in_proj_bias})
    ours.proj.load_state_dict(theirs.out_proj.state_dict())
    return ours, theirs


def assert_same(pair, inputs, ours_mask=None, **theirs_masks):
    """Outputs, and gradients of inputs and weights. `inputs`: q, k, v; gradients of an object passed twice add up."""
    ours, theirs = pair
    leaves = list({id(x): x for x in inputs}.values())
    one = ours(*inputs, ours_mask)
    other, _ = theirs(*inputs, need_weights=False, **theirs_masks)
    torch.testing.assert_close(one, other)
    upstream = torch.randn_like(one)
    mine = torch.autograd.grad(one, [*leaves, ours.qkv.weight, ours.qkv.bias, *ours.proj.parameters()], upstream)
    weights = [theirs.in_proj_weight, theirs.in_proj_bias, *theirs.out_proj.parameters()]
    torch.testing.assert_close(mine, torch.autograd.grad(other, [*leaves, *weights], upstream))


def test_attention_self(pair):
    x = double(B, N, D)
    assert_same(pair, (x, x, x))


def test_attention_cross_with_another_length(pair):
    q, context = double(B, N, D), double(B, M, D)
    assert_same(pair, (q, context, context))


def test_attention_with_three_different_inputs(pair):
    assert_same(pair, (double(B, N, D), double(B, M, D), double(B, M, D)))


def test_attention_with_positions_on_q_and_k_only(pair):
    x = double(B, N, D)
    place = torch.randn(N, D, dtype=torch.float64)
    moved = (x + place).detach().requires_grad_()
    assert_same(pair, (moved, moved, x))


def test_attention_bool_mask_keeps_what_is_true(pair):
    x = double(B, N, D)
    causal = torch.ones(N, N, dtype=torch.bool).tril()
    assert_same(pair, (x, x, x), causal, attn_mask=~causal)  # torch's True leaves out


def test_attention_float_mask_is_added(pair):
    q, context = double(B, N, D), double(B, M, D)
    bias = torch.randn(B, HEADS, N, M, dtype=torch.float64)
    assert_same(pair, (q, context, context), bias, attn_mask=bias.flatten(0, 1))


def test_attention_key_padding(pair):
    q, context = double(B, N, D), double(B, M, D)
    kept = torch.arange(M) < torch.tensor([M, 3, 1])[:, None]  # [B, M]
    assert_same(pair, (q, context, context), kept[:, None, None], key_padding_mask=~kept)


def test_attention_treats_the_samples_of_a_batch_alone(pair):
    ours, _ = pair
    x = double(B, N, D)
    torch.testing.assert_close(ours(x, x, x)[1:2], ours(x[1:2], x[1:2], x[1:2]))


def test_attention_without_bias_and_with_normed_q_and_k():
    attention = Attention(D, HEADS, qkv_bias=False, qk_norm=True, norm=partial(nn.RMSNorm, eps=1e-6)).double()
    attention.q_norm.weight.data.uniform_(0.5, 2)
    x = double(B, N, D)
    q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1))
    q = q * (q.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * attention.q_norm.weight
    k = k * (k.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    scores = (q @ k.mT / (D // HEADS) ** 0.5).softmax(-1)
    torch.testing.assert_close(attention(x, x, x), attention.proj((scores @ v).transpose(1, 2).flatten(2)))


PLAIN = EncoderConfig(width=8, depth=1, heads=2, mlp=6, patch_size=1, image_size=(2, 2))
VARIANTS = {
    "plain": {},
    "layer_scale": {"layer_scale": 0.3},
    "rope": {"rope": True},
    "swiglu": {"feed_forward": "swiglu"},
    "rmsnorm": {"norm": "rmsnorm", "qk_norm": True, "qkv_bias": False},
    "all": {"layer_scale": 0.3, "rope": True, "feed_forward": "swiglu", "norm": "rmsnorm", "activation": "silu"},
}


@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_block_gradients(variant, cross):
    config = replace(PLAIN, **VARIANTS[variant])
    block = Block(config, cross=cross).double()
    for parameter in block.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    rope = axial_rope(patch_coordinates((2, 2), torch.device("cpu")), 4, 1, 100.0) if config.rope else None
    context = double(2, 3, 8) if cross else None

    def call(x, context, *_):
        return block(x, rope=rope, context=context)

    # A parameter is an input too: its gradient is checked like the others'.
    assert torch.autograd.gradcheck(call, (double(2, 5, 8), context, *block.parameters()), fast_mode=True)


def test_block_is_its_equation():
    block = Block(replace(PLAIN, layer_scale=0.3), cross=True).double()
    x, context = double(2, 5, 8), double(2, 3, 8)
    mask, context_mask = torch.ones(5, 5).tril().bool(), torch.tensor([[True, True, False]])
    y = block.norm1(x)
    z = x + 0.3 * block.attn(y, y, y, mask)
    z = z + 0.3 * block.cross(block.cross_norm(z), context, context, context_mask)
    z = z + 0.3 * block.mlp(block.norm2(z))
    torch.testing.assert_close(block(x, mask=mask, context=context, context_mask=context_mask), z)


@pytest.mark.parametrize("p", [1, 3, 4])
def test_linear_patches_are_a_convolution_with_stride_p(p):
    patches, conv = LinearPatches(3, p, D), nn.Conv2d(3, D, p, stride=p)
    conv.load_state_dict({"weight": patches.proj.weight.view(D, 3, p, p), "bias": patches.proj.bias})
    images = torch.randn(2, 3, 4 * p, 6 * p)
    torch.testing.assert_close(patches(images), conv(images).flatten(2).mT, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("p", [2, 4, 8, 16, 32])
def test_conv_patches_give_one_token_a_patch(p):
    stem = ConvPatches(3, p, 40)
    images = torch.randn(2, 3, 2 * p, 3 * p)
    tokens = stem(images)
    assert tokens.shape == (2, 6, 40)
    strides = [layer.stride[0] for layer in stem.convs if isinstance(layer, nn.Conv2d)]
    assert math.prod(strides) == p and strides[0] == 2
    # Row by row: the last token sees the lower right corner, the first does not.
    stem.eval()
    changed = images.clone()
    changed[:, :, -1, -1] += 10
    moved = (stem(changed) - stem(images)).abs().amax(dim=(0, 2))
    assert moved[-1] > 0 and moved[0] == 0


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("gelu", nn.GELU()),
        ("gelu_tanh", nn.GELU(approximate="tanh")),
        ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x)),
        ("silu", nn.SiLU()),
    ],
)
def test_mlp_is_its_equation(name, reference):
    mlp, x = Mlp(D, 20, name), 3 * torch.randn(B, N, D)
    torch.testing.assert_close(mlp(x), mlp.fc2(reference(mlp.fc1(x))))


def test_swiglu_is_its_equation():
    swiglu, x = SwiGLU(D, 20), torch.randn(B, N, D)
    (w1, w2), (b1, b2) = swiglu.w12.weight.chunk(2), swiglu.w12.bias.chunk(2)
    gate, value = x @ w1.T + b1, x @ w2.T + b2
    torch.testing.assert_close(swiglu(x), swiglu.w3(gate * torch.sigmoid(gate) * value))


def test_layer_scale_multiplies_channels():
    scale, x = LayerScale(D, 0.5), torch.randn(B, N, D)
    scale.gamma.data[0] = 2
    torch.testing.assert_close(scale(x), x * torch.tensor([2.0] + [0.5] * (D - 1)))


def test_drop_path_drops_whole_samples_and_keeps_the_expectation():
    layer, n, rate = DropPath(0.3), 20_000, 0.3
    x = torch.randn(1, 4, 2).expand(n, -1, -1)
    y = layer(x)
    kept = (y != 0).any(dim=(1, 2))
    torch.testing.assert_close(y, x / (1 - rate) * kept[:, None, None])
    deviation = (rate * (1 - rate) / n) ** 0.5
    assert abs(float(kept.float().mean()) - (1 - rate)) < 4 * deviation
    assert layer.eval()(x) is x


@pytest.mark.parametrize("field", ["dropout", "attention_dropout"])
def test_dropout_acts_in_training_only(field):
    block = Block(replace(PLAIN, **{field: 0.5}))
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    plain = Block(PLAIN)
    plain.load_state_dict(block.state_dict())
    x = torch.randn(2, 5, 8)
    assert not torch.equal(block(x), block(x))
    torch.testing.assert_close(block.eval()(x), plain(x), rtol=0, atol=0)


def test_attention_dropout_falls_on_the_scores():
    attention = Attention(4, 1, dropout=0.5)
    nn.init.eye_(attention.proj.weight)
    nn.init.zeros_(attention.proj.bias)
    nn.init.zeros_(attention.qkv.weight)
    nn.init.ones_(attention.qkv.bias)  # every value is 1 and all scores are alike
    x = torch.randn(1, 8, 4)
    y = attention(x, x, x)
    # Each output is the number of surviving scores, of 8, times 1 / (8 * (1 - .5)): the same in every channel.
    torch.testing.assert_close(y * 4, (y * 4).round())
    assert F.mse_loss(y, y[..., :1].expand_as(y)) < 1e-10 and len(y.unique()) > 1


@pytest.mark.parametrize("rate", [0.5, 0.99])
def test_work_of_dropped_branches_is_skipped_and_nothing_else_changes(rate: float):
    """The same samples are dropped as without: results and gradients are equal."""
    config = replace(PLAIN, layer_scale=0.3)
    block = Block(config, drop_path=rate).double()
    skipping = Block(replace(config, skip_dropped=True), drop_path=rate).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    skipping.load_state_dict(block.state_dict())
    mask = torch.randn(6, 1, 5, 5, dtype=torch.float64)
    seen: list[int] = []
    skipping.mlp.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    found = []
    for one in (block, skipping):
        torch.manual_seed(3)
        x = double(6, 5, 8) if not found else found[0][0]
        torch.manual_seed(4)
        y = one(x, mask=mask)
        # Every parameter has a gradient, even where all is dropped: DDP and FSDP2 would wait for it forever.
        found.append((x, y, torch.autograd.grad(y.sin().sum(), [x, *one.parameters()])))
    torch.testing.assert_close(found[1][1], found[0][1])
    for a, b in zip(found[0][2], found[1][2], strict=True):
        torch.testing.assert_close(b, a)
    assert sum(seen) < 6  # some samples' feed-forward was never computed
    assert torch.equal(skipping.eval()(x), block.eval()(x))
