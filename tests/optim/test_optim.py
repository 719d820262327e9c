"""Which parameter learns how fast, and by which rule."""

import math

import pytest
import torch
from timm.optim import param_groups_layer_decay
from timm.scheduler import CosineLRScheduler
from torch import nn

from vit.model.classifier import create
from vit.model.depth import depth_of
from vit.optim.optimizers import Ema, assert_covers, make_optimizers, set_lr, warmup_cosine

VARIANTS = {
    "plain": ("vit_nano8", {}),
    "conv": ("vit_nano8_conv_mean", {"layer_scale": 1e-4, "registers": 2}),
    "rope": ("vit_nano8_rope", {"norm": "rmsnorm", "qk_norm": True, "feed_forward": "swiglu"}),
    "beit": ("vit_nano8", {"positions": "none", "relative_positions": True, "qkv_bias": "qv"}),
    "mixed": ("vit_nano8_rope", {"rope_mixed": True, "rope_places": "grid", "pre_norm": True}),
}


def model_of(variant):
    name, fields = VARIANTS[variant]
    return create(name, num_classes=5, image_size=16, width=16, heads=2, mlp=32, depth=3, **fields)


def optimizers_of(model, **options):
    values = {"name": "adamw", "lr": 1e-3, "muon_lr": 1e-2, "weight_decay": 0.05, **options}
    return make_optimizers(model, **values)


def named_groups(model, optimizers):
    """{parameter's name: (optimizer, group)}"""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (type(o).__name__, group) for o in optimizers for group in o.param_groups for p in group["params"]
    }


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_is_in_exactly_one_group(variant, name):
    model = model_of(variant)
    optimizers = optimizers_of(model, name=name, layer_decay=0.7)
    listed = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_frozen_parameters_are_in_no_group(name):
    model = model_of("plain").requires_grad_(False)
    model.head.requires_grad_(True)
    assert named_groups(model, optimizers_of(model, name=name)).keys() == {"head.weight", "head.bias"}


def test_a_missing_a_double_and_a_foreign_parameter_are_told():
    model = nn.Linear(2, 2)
    with pytest.raises(AssertionError, match="parameter bias is in 0 optimizer groups, not 1"):
        assert_covers(model, [torch.optim.SGD([model.weight])])
    both = [torch.optim.SGD(model.parameters()), torch.optim.SGD([model.weight])]
    with pytest.raises(AssertionError, match="parameter weight is in 2 optimizer groups"):
        assert_covers(model, both)
    with pytest.raises(AssertionError, match="1 optimized parameters are not the model's"):
        assert_covers(model, [torch.optim.SGD([*model.parameters(), nn.Parameter(torch.zeros(1))])])
    model.bias.requires_grad_(False)
    with pytest.raises(AssertionError, match="parameter bias is in 1 optimizer groups, not 0"):
        assert_covers(model, [torch.optim.SGD(model.parameters())])


@pytest.mark.parametrize("variant", VARIANTS)
def test_muon_gets_the_matrices_of_the_blocks_and_nothing_else(variant):
    model = model_of(variant)
    for name, (optimizer, _) in named_groups(model, optimizers_of(model, name="muon")).items():
        matrix = name.startswith("encoder.blocks.") and model.get_parameter(name).ndim == 2
        assert optimizer == ("Muon" if matrix else "AdamW"), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_vectors_tokens_and_positions_do_not_decay(variant):
    model = model_of(variant)
    for name, (_, group) in named_groups(model, optimizers_of(model, weight_decay=0.3)).items():
        token = name.endswith(("_token", "pos_embed", "rope_freqs")) or "relative" in name
        assert group["weight_decay"] == (0.3 if model.get_parameter(name).ndim >= 2 and not token else 0), name


def test_layer_decay_is_timms():
    from timm.models.vision_transformer import VisionTransformer

    model, decay = model_of("plain"), 0.7
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "mlp_ratio": 2}
    theirs = VisionTransformer(**sizes, num_classes=5)
    names = {id(p): name for name, p in theirs.named_parameters()}
    scales = {}
    for group in param_groups_layer_decay(theirs, layer_decay=decay):
        for p in group["params"]:
            scales[names[id(p)]] = group["lr_scale"]
    groups = named_groups(model, optimizers_of(model, layer_decay=decay, lr=2.0))
    for name, (_, group) in groups.items():
        # timm counts the last norm with the last block; BEiT, as we do, with the head.
        expected = 1 if name.startswith("encoder.norm.") else scales[name.removeprefix("encoder.")]
        assert group["lr"] == group["base_lr"] == pytest.approx(2.0 * expected), name
    assert len(set(scales.values())) == 3 + 2


def test_depth_of():
    before = ("patch_embed.proj.bias", "patch_norm.weight", "dist_token", "reg_token", "rope_freqs", "norm_pre.weight")
    assert {depth_of(f"encoder.{name}", 12) for name in before} == {0}
    assert depth_of("encoder.relative.3.table", 12) == depth_of("encoder.blocks.3.norm1.weight", 12) == 4
    assert depth_of("encoder.patch_embed.convs.0.weight", 12) == 0
    assert depth_of("encoder.pos_embed", 12) == depth_of("encoder.cls_token", 12) == 0
    assert depth_of("encoder.blocks.0.norm1.weight", 12) == 1
    assert depth_of("encoder.blocks.11.attn.qkv.weight", 12) == 12
    assert depth_of("encoder.norm.weight", 12) == depth_of("head.bias", 12) == depth_of("attn_pool.probe", 12) == 13


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_schedule_is_torchs_cosine_after_a_linear_warm_up(final):
    total, warmup = 50, 8
    factors = [warmup_cosine(step, total, warmup, final) for step in range(total + 1)]
    assert factors[:warmup] == pytest.approx([(i + 1) / warmup for i in range(warmup)])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warmup, eta_min=final)
    for factor in factors[warmup:]:
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        cosine.step()


def test_schedule_without_warm_up_is_timms():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = CosineLRScheduler(optimizer, t_initial=40, lr_min=0.0, t_in_epochs=False)
    for step in range(40):
        theirs.step_update(step)
        assert warmup_cosine(step, 40, 0) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)


def test_schedule_stays_at_its_end():
    assert warmup_cosine(99, 10, 2, 0.1) == pytest.approx(0.1)
    assert 0 < warmup_cosine(3, 5, 10) <= 1  # a warm-up longer than the run


def test_set_lr_multiplies_each_groups_own_rate():
    model = model_of("plain")
    optimizers = optimizers_of(model, name="muon", layer_decay=0.5)
    before = [group["lr"] for o in optimizers for group in o.param_groups]
    for factor in (0.5, 0.25):  # not one after the other
        set_lr(optimizers, factor)
        assert [g["lr"] for o in optimizers for g in o.param_groups] == pytest.approx([r * factor for r in before])


def test_ema_is_its_recursion():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema, decay = Ema(model, 0.2), 0.2
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    for t in range(1, 8):
        for p in model.parameters():
            p.data += torch.randn_like(p)
        model(torch.randn(4, 3))
        ema.update(model)
        d = min(decay, (1 + t) / (10 + t))
        for name, p in model.named_parameters():
            average[name] = d * average[name] + (1 - d) * p.detach()
            torch.testing.assert_close(ema.state[name], average[name])
        for name, value in model.named_buffers():
            assert torch.equal(ema.state[name], value) and ema.state[name].data_ptr() != value.data_ptr()
    assert ema.updates == 7 and ema.state["1.num_batches_tracked"] == 7
    assert (1 + 1) / (10 + 1) < decay < (1 + 7) / (10 + 7)  # both sides of the minimum were used


def test_adamw_moves_as_torchs_does():
    """The groups change nothing but rates: one step is AdamW's closed form for the first step."""
    torch.manual_seed(0)
    model = model_of("plain")
    optimizer = optimizers_of(model, lr=1e-2, weight_decay=0.1)[0]
    weight = model.head.weight
    before = weight.detach().clone()
    model(torch.randn(2, 3, 16, 16)).square().sum().backward()
    gradient = weight.grad.clone()
    optimizer.step()
    step = gradient / (gradient.abs() + 1e-8)  # m / sqrt(v) after one step, bias-corrected
    torch.testing.assert_close(weight.detach(), before * (1 - 1e-2 * 0.1) - 1e-2 * step)
    assert math.isclose(optimizer.param_groups[0]["betas"][1], 0.999)
