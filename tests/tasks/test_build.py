"""What a run keeps of the weights it starts from, and that what is kept costs nothing in the backward pass."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vit.errors import UserError
from vit.model.classifier import create
from vit.tasks.classification.build import build_model, freeze
from vit.tasks.classification.recipe import RECIPES
from vit.tasks.classification.settle import settle
from vit.tasks.facts import Facts
from vit.tasks.precision import mixed_precision

FINETUNE = replace(RECIPES["finetune"][1], data="photos")
DEPTH = 3
VARIANTS = {
    "vit_nano8": {"registers": 2, "distill_token": True, "pre_norm": True, "prefix_positions": 1},
    "vit_nano8_conv_mean": {"patch_norm": True},
    "vit_nano8_rope": {"rope_mixed": True, "rope_places": "grid"},
    "vit_nano8_beit": {"positions": "none", "relative_positions": True, "qkv_bias": "qv"},
}


def model_of(variant="vit_nano8"):
    torch.manual_seed(0)
    sizes = {"width": 16, "heads": 2, "mlp": 32, "depth": DEPTH}
    return create(variant.removesuffix("_beit"), num_classes=5, image_size=16, **sizes, **VARIANTS[variant])


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("blocks", range(DEPTH + 1))
@pytest.mark.parametrize("variant", VARIANTS)
def test_freezing_by_depth(variant, blocks):
    model = model_of(variant)
    (told,) = freeze(replace(FINETUNE, freeze_blocks=blocks), model)
    assert told == f"The patch embedding, the positions and {blocks} of 3 blocks are frozen."
    later = [f"encoder.{part}.{i}." for i in range(blocks, DEPTH) for part in ("blocks", "relative")]
    starts = ("encoder.norm.", "head.", *later)
    assert trained(model) == {name for name, _ in model.named_parameters() if name.startswith(starts)}


def kept_for_backward(run):
    """Bytes that autograd keeps of `run`'s activations, and the FLOPs of its backward pass."""
    storages = {}

    def pack(tensor):
        if tensor.grad_fn is not None or not tensor.requires_grad:  # not the parameters
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run().square().sum()
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    return sum(storages.values()), counter.get_total_flops()


@pytest.mark.parametrize("blocks", range(DEPTH + 1))
@pytest.mark.parametrize("variant", ["vit_nano8", "vit_nano8_conv_mean", "vit_nano8_rope"])
def test_below_the_frozen_part_there_is_no_backward_pass(variant, blocks):
    """It costs what the later blocks alone cost, on tokens that came from elsewhere."""
    model, images = model_of(variant), torch.randn(2, 3, 16, 16)
    whole = kept_for_backward(lambda: model(images))
    freeze(replace(FINETUNE, freeze_blocks=blocks), model)
    with torch.no_grad():
        x, grid = model.encoder.embed(images)
        ropes = model.encoder.ropes(grid, x.device)
        for block, rope in zip(model.encoder.blocks[:blocks], ropes, strict=False):
            x = block(x, rope=rope)

    def later_blocks():
        y = x
        for block, rope in zip(model.encoder.blocks[blocks:], ropes[blocks:], strict=True):
            y = block(y, rope=rope)
        y, prefix = model.encoder.norm(y), model.encoder.config.prefix
        return model.head(y[:, 0] if prefix else y.mean(dim=1))

    frozen = kept_for_backward(lambda: model(images))
    assert frozen == kept_for_backward(later_blocks)
    assert frozen[0] < whole[0] and frozen[1] < whole[1]


def test_head_only_and_lora_on_the_later_blocks():
    model = model_of()
    freeze(replace(FINETUNE, freeze=True), model)
    assert trained(model) == {"head.weight", "head.bias"}
    model = model_of()
    told = freeze(replace(FINETUNE, lora_rank=2, freeze_blocks=1), model)
    assert told[0] == "LoRA of rank 2 on 8 linear layers; only it and the head are trained."
    assert {".".join(name.split(".")[:3]) for name in trained(model)} == {
        "head.weight", "head.bias", "encoder.blocks.1", "encoder.blocks.2"
    }  # fmt: skip


def test_nothing_is_frozen_unless_asked():
    model = model_of()
    assert freeze(FINETUNE, model) == []
    assert trained(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"freeze_blocks": 4}, "--freeze-blocks 4: the model has 3 blocks"),
        ({"freeze_blocks": 3, "lora_rank": 2}, "--freeze-blocks 3 leaves no block for the updates of --lora-rank"),
        ({"lora_rank": 17}, "--lora-rank 17 is above the rank of qkv"),
    ],
    ids=str,
)
def test_more_than_the_model_has(options, told):
    with pytest.raises(UserError, match=told):
        freeze(replace(FINETUNE, **options), model_of())


@pytest.mark.parametrize("name", ["freeze", "freeze_blocks", "lora_rank", "head_epochs"])
def test_there_is_nothing_to_keep_from_scratch(name):
    facts = Facts(60, 3, (24, 24), False, (0.5,) * 3, (0.2,) * 3)
    recipe, _ = settle(replace(RECIPES["folder"][1], data="photos", **{name: name == "freeze" or 1}), facts)
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(UserError, match=f"{option} keeps pretrained weights: add --weights SRC"):
        build_model(recipe, ["a", "b", "c"], facts)


@pytest.mark.parametrize(("amx", "avx512"), [(True, True), (False, True), (True, False), (False, False)])
def test_a_cpu_computes_in_bf16_where_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool
):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    cpu = torch.device("cpu")
    assert mixed_precision("auto", cpu) is (torch.bfloat16 if amx or avx512 else None)
    assert mixed_precision("none", cpu) is None and mixed_precision("bf16", cpu) is torch.bfloat16
