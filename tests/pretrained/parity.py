"""Comparing a model of ours with a reference."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from tests.pretrained.random_weights import randomize
from vit.model.classifier import Classifier
from vit.model.config import ClassifierConfig
from vit.pretrained.files.source import Source
from vit.pretrained.load import from_public
from vit.pretrained.registry.find import find

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


def random_model(config: ClassifierConfig) -> Classifier:
    if config.encoder.rope_mixed:  # frequencies stay as they begin
        model = Classifier(config).eval()
    else:
        with torch.device("meta"):  # no time is spent on initial values
            model = Classifier(config)
        model = model.to_empty(device="cpu").eval()
    randomize(model)
    if model.encoder.rope_freqs is not None:  # what `randomize` leaves as it is, and here is not
        generator = torch.Generator().manual_seed(1)
        model.encoder.rope_freqs.data.copy_(torch.randn(model.encoder.rope_freqs.shape, generator=generator))
    return model


def with_fields(model: Classifier, **fields) -> Classifier:
    """The same weights with fields of the encoder or the classifier set wrongly: the negative checks."""
    own = {key: fields.pop(key) for key in list(fields) if key in ClassifierConfig.__dataclass_fields__}
    config = dataclasses.replace(model.config, encoder=dataclasses.replace(model.config.encoder, **fields), **own)
    return made(config, model.state_dict())


def other_order(model: Classifier) -> Classifier:
    """Channels of queries and keys as if the file's order for RoPE, (2i, 2i + 1) or (i, i + d/2), were the other."""
    e = model.config.encoder
    pairs = (-1, e.width // e.heads // 2, 2)
    state = {}
    for name, value in model.state_dict().items():
        if ".attn.qkv." in name:
            q, k, v = value.chunk(3)
            value = torch.cat([*(part.unflatten(0, pairs).transpose(1, 2).flatten(0, 2) for part in (q, k)), v])
        elif name.endswith("attn.q_bias"):
            value = value.unflatten(0, pairs).transpose(1, 2).flatten()
        state[name] = value
    return made(model.config, state)


def heads_swapped(model: Classifier) -> Classifier:
    """DeiT's two heads, each on the other's token."""
    names = {"head.cls.": "head.dist.", "head.dist.": "head.cls."}
    state = dict(model.state_dict())
    for name, value in model.state_dict().items():
        if name[:9] in names or name[:10] in names:
            mine = next(part for part in names if name.startswith(part))
            state[name.replace(mine, names[mine])] = value
    return made(model.config, state)


def token_unplaced(model: Classifier) -> Classifier:
    """The class token without its own position."""
    state = dict(model.state_dict())
    position = state["encoder.pos_embed"].clone()
    position[:, 0] = 0
    return made(model.config, {**state, "encoder.pos_embed": position})


def made(config: ClassifierConfig, state: dict[str, Tensor]) -> Classifier:
    """Of these very tensors: no time is spent on initial values."""
    with torch.device("meta"):
        model = Classifier(config)
    model.load_state_dict(state, assign=True)
    return model.eval()


@torch.inference_mode()
def outputs(model: Classifier, x: Tensor) -> dict[str, Tensor]:
    tokens = model.forward_features(x)
    pooled = model.pool(tokens)
    return {"patches": tokens.patches, "prefix": tokens.prefix, "pooled": pooled, "logits": model.head(pooled)}
