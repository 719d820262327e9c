"""Every row of the registry against timm, on the meta device: keys and shapes, without the gigabytes."""

from __future__ import annotations

import pytest
import timm
import torch

from vit.pretrained.files.source import Source
from vit.pretrained.load import from_public
from vit.pretrained.registry.find import MODELS

GIANTS = ["dinov2_g14", "dinov3_7b16", "dinov3_h16plus", "pe_core_g14", "aimv2_3b14", "siglip_so400m14"]


def keys_and_shapes_fit(name: str) -> None:
    row = MODELS[name]
    assert row.timm is not None
    with torch.device("meta"):
        other = timm.create_model(row.timm.split(".")[0])
    state = {key: torch.empty(value.shape, device="meta") for key, value in other.state_dict().items()}
    model = from_public(row, Source.of(state, name)).model
    ours = sum(p.numel() for p in model.parameters())
    assert ours == sum(value.numel() for value in state.values())


@pytest.mark.parametrize("name", GIANTS)
def test_giants(name):
    keys_and_shapes_fit(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [row.name for row in MODELS.values() if row.timm and row.name not in GIANTS])
def test_all_others(name):
    keys_and_shapes_fit(name)
