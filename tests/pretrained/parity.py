"""Comparing a model of ours with a reference."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vit.classifier import Classifier
from vit.pretrained.load import from_public
from vit.pretrained.registry import find
from vit.pretrained.source import Source

LIMIT = 1e-5


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def ours_from(name: str, state: dict[str, Tensor], depth: int | None = None) -> Classifier:
    """Our model of a registry name, cut to `depth` blocks, with somebody's tensors."""
    row = find(name)
    if depth is not None:
        row = dataclasses.replace(row, size=row.size._replace(depth=depth))
    return from_public(row, Source.of(state, name)).model


def with_fields(model: Classifier, **encoder) -> Classifier:
    """The same weights with fields of the encoder set wrongly: the negative checks."""
    config = dataclasses.replace(model.config, encoder=dataclasses.replace(model.config.encoder, **encoder))
    wrong = Classifier(config).eval()
    wrong.load_state_dict(model.state_dict())
    return wrong


@torch.inference_mode()
def outputs(model: Classifier, x: Tensor) -> dict[str, Tensor]:
    tokens = model.forward_features(x)
    pooled = model.pool(tokens)
    return {"patches": tokens.patches, "prefix": tokens.prefix, "pooled": pooled, "logits": model.head(pooled)}
