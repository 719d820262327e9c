"""Hugging Face's files (as transformers saves them) and its names in memory, against its own answers."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.pretrained.parity import LIMIT, error, outputs, with_fields
from tests.pretrained.random_weights import images
from vit.config import Size
from vit.pretrained.load import from_public
from vit.pretrained.registry import Model
from vit.pretrained.source import open_source

if importlib.util.find_spec("transformers") is None:
    pytest.skip("transformers is not installed", allow_module_level=True)

SIZES = {"native": (64, 64), "other": (48, 96)}
SMALL, WIDE = Size(48, 2, 3, 96), Size(48, 2, 3, 192)
# case -> (family, size, fields, the negative checks)
CASES = {
    "vit": ("vit", SMALL, {}, [{"eps": 1e-6}, {"activation": "gelu_tanh"}, {"position_resize": "antialias"}]),
    "vit_base": ("vit", SMALL, {}, []),
    "deit": ("deitd", SMALL, {}, []),
    "beit": ("beit", SMALL, {}, [{"position_resize": "antialias"}]),
    "mae": ("mae", SMALL, {}, []),
    "dinov2": ("dinov2", WIDE, {}, [{"position_resize": "antialias"}, {"position_resize": "offset"}]),
    "dinov2_swiglu": ("dinov2", Size(48, 2, 3, 128), {"feed_forward": "swiglu"}, []),
    "dinov2_registers": ("dinov2", WIDE, {}, [{"position_resize": "plain"}]),
    "dinov3": ("dinov3", SMALL, {}, [{"rope_bf16": True}, {"rope_axes": "xy"}, {"eps": 1e-6}]),
    "dinov3_gated": ("dinov3", SMALL, {"feed_forward": "swiglu"}, []),
    "siglip": ("siglip2", SMALL, {}, [{"activation": "gelu"}, {"position_resize": "antialias"}]),
    "siglip_classifier": ("siglip2", SMALL, {}, []),
    "clip": ("clip", SMALL, {}, [{"activation": "gelu"}, {"eps": 1e-6}]),
    "ijepa": ("ijepa", SMALL, {}, []),
    "aimv2": ("aimv2", SMALL, {}, [{"eps": 1e-6}]),
    "naflex": ("siglip2_naflex", SMALL, {}, [{"position_resize": "antialias"}]),
}


@pytest.fixture(scope="session")
def answered(tmp_path_factory) -> Path:
    """One process makes all models, files and answers."""
    out = tmp_path_factory.mktemp("huggingface")
    script = Path(__file__).with_name("huggingface_process.py")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(script), str(out)], cwd=out, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


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
    family, size, fields, wrong_fields = CASES[case]
    row = Model(case, family, size, 16, 64, fields=fields)
    model = from_public(row, open_source(answered / case / file)).model
    answers = load_file(answered / case / "answers.safetensors")
    sizes = [at for at in SIZES if f"{at}.tokens" in answers]
    for at in sizes:
        assert largest_error(model, answers, at) <= LIMIT, at
    if file == "model.safetensors":
        for wrong in wrong_fields:
            worst = max(largest_error(with_fields(model, **wrong), answers, at) for at in sizes)
            assert worst > LIMIT, f"{wrong} goes unnoticed ({worst:.1e})"


@torch.no_grad()
def test_a_navit_kernel_in_a_fixed_layout_is_not_taken_by_luck(answered):
    from vit.errors import UserError

    row = Model("fixed", "siglip2", SMALL, 16, 64)
    with pytest.raises(UserError, match="is in the layout Hugging Face Siglip2 vision"):
        from_public(row, open_source(answered / "naflex" / "model.safetensors"))
    assert dataclasses.replace(row, family="siglip2_naflex").config.pool == "attention"
