"""Hugging Face's files (as transformers saves them) and its names in memory, against its own answers."""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tests.pretrained.parity import LIMIT, error, heads_swapped, other_order, outputs, token_unplaced, with_fields
from tests.pretrained.random_weights import images
from vit.model.config import Size
from vit.pretrained.files.card import folder_card
from vit.pretrained.files.source import open_source
from vit.pretrained.load import from_public, load
from vit.pretrained.registry.find import Model

if importlib.util.find_spec("transformers") is None:
    pytest.skip("transformers is not installed", allow_module_level=True)

SIZES = {"native": (64, 64), "other": (48, 96)}
SMALL, GATED = Size(128, 2, 2, 512), Size(128, 2, 2, 344)
ANTIALIAS, PLAIN = {"position_resize": "antialias"}, {"position_resize": "plain"}
EPS5, EPS6 = {"eps": 1e-5}, {"eps": 1e-6}
TANH, GELU = {"activation": "gelu_tanh"}, {"activation": "gelu"}
# case -> (family, size, fields, the negative checks)
CASES = {
    "vit": ("vit", SMALL, {}, [EPS6, TANH, ANTIALIAS, token_unplaced]),
    "vit_base": ("vit", SMALL, {}, [EPS6]),
    "deit": ("deitd", SMALL, {}, [EPS6, ANTIALIAS, heads_swapped]),
    "beit": ("beit", SMALL, {}, [ANTIALIAS, EPS6, TANH]),
    "beit_pretraining": ("beit", SMALL, {}, [ANTIALIAS, EPS6]),
    "beit_shared": ("beit", SMALL, {}, [ANTIALIAS, EPS6]),
    "mae": ("mae", SMALL, {}, [EPS6, ANTIALIAS, TANH]),
    "dinov2": ("dinov2", SMALL, {}, [ANTIALIAS, {"position_resize": "offset"}, EPS5]),
    "dinov2_swiglu": ("dinov2", GATED, {"feed_forward": "swiglu"}, [ANTIALIAS]),
    "dinov2_registers": ("dinov2", SMALL, {}, [PLAIN]),
    "dinov2_registers_classifier": ("dinov2", SMALL, {}, [PLAIN, EPS5]),
    "dinov3": ("dinov3", SMALL, {}, [{"rope_bf16": True}, {"rope_axes": "xy"}, EPS6, other_order]),
    "dinov3_gated": ("dinov3", SMALL, {"feed_forward": "swiglu"}, [other_order, EPS6]),
    "siglip": ("siglip", SMALL, {}, [GELU, ANTIALIAS, EPS5]),
    "siglip_classifier": ("siglip2", SMALL, {}, [GELU, ANTIALIAS]),
    "clip": ("clip", SMALL, {}, [GELU, EPS6, ANTIALIAS, token_unplaced]),
    "ijepa": ("ijepa", SMALL, {}, [EPS5, ANTIALIAS]),
    "ijepa_classifier": ("ijepa", SMALL, {}, [EPS5, TANH]),
    "vit_strange": ("vit", SMALL, {}, [EPS5, GELU]),
    "aimv2": ("aimv2", SMALL, {}, [EPS6]),
    "naflex": ("siglip2_naflex", SMALL, {}, [ANTIALIAS, GELU]),
}


def largest_error(model, answers, size: str) -> float:
    mine = outputs(model, images(*SIZES[size]))
    prefix = model.config.encoder.prefix
    tokens = answers[f"{size}.tokens"]
    pairs = [(mine["patches"], tokens[:, prefix:]), (mine["prefix"], tokens[:, :prefix])]
    pairs += [(mine[key], answers[f"{size}.{key}"]) for key in ("pooled", "logits") if f"{size}.{key}" in answers]
    return max(error(ours, theirs) for ours, theirs in pairs if theirs.numel())


@pytest.mark.parametrize("file", ["model.safetensors", "memory.safetensors"])
@pytest.mark.parametrize("case", CASES)
def test_tokens_pooled_and_logits_are_hugging_faces(answered, case, file):
    family, size, fields, wrongs = CASES[case]
    row = Model(case, family, size, 16, 64, fields=fields)
    source = open_source(answered / case / file)
    if case == "vit_strange":  # its config.json is needed, and a file of another name does not look for one
        source = replace(source, card=folder_card(answered / case))
    model = from_public(row, source).model
    answers = load_file(answered / case / "answers.safetensors")
    sizes = [at for at in SIZES if f"{at}.tokens" in answers]
    for at in sizes:
        assert largest_error(model, answers, at) <= LIMIT, at
    if file == "model.safetensors":
        for wrong in wrongs:
            bad = with_fields(model, **wrong) if isinstance(wrong, dict) else wrong(model)
            assert any(largest_error(bad, answers, at) > LIMIT for at in sizes), f"{wrong} goes unnoticed"


@torch.no_grad()
def test_a_navit_kernel_in_a_fixed_layout_is_not_taken_by_luck(answered):
    from vit.errors import UserError

    row = Model("fixed", "siglip2", SMALL, 16, 64)
    with pytest.raises(UserError, match="has the layout Hugging Face Siglip2 vision"):
        from_public(row, open_source(answered / "naflex" / "model.safetensors"))
    assert dataclasses.replace(row, family="siglip2_naflex").config.pool == "attention"


@pytest.mark.parametrize("case", [case for case in CASES if case != "naflex"])
def test_a_folder_of_hugging_faces_says_which_model_it_is(answered, case):
    """Its config.json in place of a name: the same answers, at the native size and with the size that it was for."""
    loaded = load(None, answered / case)
    answers = load_file(answered / case / "answers.safetensors")
    assert loaded.model.config.encoder.image_size == (64, 64)
    assert largest_error(loaded.model, answers, "native") <= LIMIT
