"""Random weights large enough to tell a wrong variant, and the comparison with a reference."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from vit.pretrained.families import find
from vit.pretrained.load import from_public
from vit.pretrained.source import Source

LIMIT = 1e-5


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Weights with activations of order 1 in every layer: at std .02 a wrong GELU would hide below 1e-7."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        leaf = name.rsplit(".", 1)[-1]
        if "rope" in name:
            value = parameter.detach()  # frequencies have a meaning
        elif leaf in ("bias", "q_bias", "v_bias", "in_proj_bias", "k_bias"):
            value = 0.3 * noise
        elif parameter.ndim == 1:
            value = 0.7 + 0.3 * noise  # norms and LayerScale
        elif "pos" in name or "token" in name or "latent" in name or "probe" in name or "class_embedding" in name:
            value = 0.03 * noise  # a small variance before the first norm shows a wrong eps
        elif "relative" in name:
            value = 2 * noise
        else:
            gain = 0.05 if "patch" in name or "conv" in name else 1.5
            value = gain * noise / parameter[0].numel() ** 0.5
        parameter.data.copy_(value)


def images(h: int, w: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, h, w, generator=torch.Generator().manual_seed(h * 1000 + w))


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def ours_from(name: str, state: dict[str, Tensor], depth: int | None = None, **encoder):
    """Our model of a registry name, cut to `depth` blocks, with somebody's tensors; `encoder` sets fields wrongly for
    the negative checks."""
    row = find(name)
    if depth is not None:
        row = dataclasses.replace(row, size=row.size._replace(depth=depth))
    loaded = from_public(row, Source.of(state, name))
    model = loaded.model
    if encoder:
        from vit.classifier import Classifier

        config = dataclasses.replace(model.config, encoder=dataclasses.replace(model.config.encoder, **encoder))
        wrong = Classifier(config).eval()
        wrong.load_state_dict(model.state_dict())
        model = wrong
    return model


@torch.inference_mode()
def outputs(model, x: Tensor) -> dict[str, Tensor]:
    tokens = model.forward_features(x)
    pooled = model.pool(tokens)
    return {"patches": tokens.patches, "prefix": tokens.prefix, "pooled": pooled, "logits": model.head(pooled)}
