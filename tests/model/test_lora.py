"""LoRA against its formula; what it trains; and the plain weights it becomes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vit.errors import UserError
from vit.model.classifier import create
from vit.model.lora import LoraLinear, add_lora, merged
from vit.optim.optimizers import make_optimizers

WIDTH, MLP, DEPTH, CLASSES = 16, 24, 3, 5
VARIANTS = {
    "mlp": {},
    "swiglu": {"feed_forward": "swiglu", "qk_norm": True, "layer_scale": 0.1},
    "beit": {"qkv_bias": "qv", "relative_positions": True, "positions": "none"},
    "no bias": {"qkv_bias": False, "bias": False, "norm": "rmsnorm"},
}


def model_of(variant="mlp"):
    torch.manual_seed(0)
    sizes = {"width": WIDTH, "heads": 2, "mlp": MLP, "depth": DEPTH}
    return create("vit_nano8", num_classes=CLASSES, image_size=16, **sizes, **VARIANTS[variant]).double()


def images(n=4):
    return torch.randn(n, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def learned(model):
    """Every B as after some training."""
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            nn.init.normal_(parameter, std=0.3)
    return model


def test_one_matrix_is_the_papers_formula():
    layer = LoraLinear(nn.Linear(6, 4).double(), 2, alpha=3.0)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    a, b = layer.lora_a[0], layer.lora_b[0]
    h = x @ layer.weight.T + layer.bias + 3.0 / 2 * (x @ a.T @ b.T)  # W0 x + (alpha / r) B A x
    torch.testing.assert_close(layer(x), h, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight + 1.5 * b @ a, layer.bias), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("parts", [2, 3])
def test_stacked_matrices_are_layers_of_their_own(parts):
    stacked = LoraLinear(nn.Linear(6, 4 * parts).double(), 2, 8.0, parts)
    nn.init.normal_(stacked.lora_b)
    x, apart = torch.randn(7, 6, dtype=torch.float64), []
    for i, (weight, bias) in enumerate(zip(stacked.weight.chunk(parts), stacked.bias.chunk(parts), strict=True)):
        one = nn.Linear(6, 4).double()
        one.weight, one.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
        one = LoraLinear(one, 2, 8.0)
        one.lora_a.data, one.lora_b.data = stacked.lora_a.data[i : i + 1], stacked.lora_b.data[i : i + 1]
        apart.append(one(x))
    torch.testing.assert_close(stacked(x), torch.cat(apart, -1), rtol=1e-12, atol=1e-12)


def test_a_is_drawn_as_peft_draws_it():
    torch.manual_seed(3)
    ours = LoraLinear(nn.Linear(50, 20), 4, 16.0)
    torch.manual_seed(3)
    nn.Linear(50, 20)
    theirs = nn.init.kaiming_uniform_(torch.empty(4, 50), a=math.sqrt(5))
    assert torch.equal(ours.lora_a[0], theirs) and not ours.lora_b.any()


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_at_first_nothing_changes(variant):
    model = model_of(variant)
    before = model(images())
    add_lora(model, 4, 16.0)
    assert torch.equal(model(images()), before)
    assert not torch.equal(learned(model)(images()), before)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("alpha", [2.0, 16.0])
def test_merged_weights_are_a_plain_model_that_computes_the_same(variant, alpha):
    model = model_of(variant)
    add_lora(model, 4, alpha)
    expected = learned(model)(images())
    plain = model_of(variant)
    untouched = plain(images())
    plain.load_state_dict(merged(model.state_dict(), alpha))  # strict: nothing of LoRA is left in it
    assert float((plain(images()) - expected).abs().max() / expected.abs().max()) < 1e-12
    assert float((untouched - expected).abs().max() / expected.abs().max()) > 1e-2


def test_a_plain_model_is_merged_already():
    weights = model_of().state_dict()
    assert merged(weights, 16.0) == weights


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_updates_and_the_head_are_trained(variant):
    model = model_of(variant)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    add_lora(model, 4, 16.0)
    learned(model)(images()).square().sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    expected = {name for name, _ in model.named_parameters() if "lora_" in name or name.startswith("head.")}
    assert reached == expected
    optimizers = make_optimizers(model, name="adamw", lr=0.1, muon_lr=0.1, weight_decay=0.1)
    for optimizer in optimizers:
        optimizer.step()
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("rank", [1, 4])
def test_number_of_trained_parameters(rank):
    def trained(variant):
        model = model_of(variant)
        add_lora(model, rank, 16.0)
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    head = WIDTH * CLASSES + CLASSES
    # q, k, v and proj: r (D + D) each; the feed-forward part: two matrices between D and its width, or three.
    assert trained("mlp") == DEPTH * rank * (8 * WIDTH + 2 * (WIDTH + MLP)) + head
    assert trained("swiglu") == DEPTH * rank * (8 * WIDTH + 3 * (WIDTH + MLP)) + head


def test_every_update_is_in_one_group_of_adamw_and_decays():
    model = model_of()
    assert add_lora(model, 4, 16.0) == 4 * DEPTH
    # Muon, which would take matrices of the blocks, gets none of them.
    (adamw,) = make_optimizers(model, name="muon", lr=0.1, muon_lr=0.1, weight_decay=0.3)
    assert isinstance(adamw, torch.optim.AdamW)
    decays = {id(p): group["weight_decay"] for group in adamw.param_groups for p in group["params"]}
    listed = [p for group in adamw.param_groups for p in group["params"]]
    assert len(listed) == len(decays) == 2 * 4 * DEPTH + 2
    assert all(decays[id(p)] == 0.3 for name, p in model.named_parameters() if "lora_" in name)


def test_from_a_block_on():
    model = model_of()
    assert add_lora(model, 4, 16.0, first_block=2) == 4
    assert {name.split(".")[2] for name, p in model.named_parameters() if "lora_" in name} == {"2"}


@pytest.mark.parametrize("variant", ["mlp", "swiglu"])
def test_a_rank_that_no_matrix_has(variant):
    add_lora(model_of(variant), WIDTH, 16.0)
    with pytest.raises(
        UserError, match=r"--lora-rank 17 is above the rank of qkv, a matrix of 16x16; 16 is the maximum"
    ):
        add_lora(model_of(variant), WIDTH + 1, 16.0)
