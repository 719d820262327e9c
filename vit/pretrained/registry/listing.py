"""The list of models, classifiers and detectors, with the cost of each."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

import torch

from vit.detector import PRESETS, Detector
from vit.detector.cost import detector_flops
from vit.model.classifier import Classifier
from vit.model.config import ClassifierConfig
from vit.pretrained.registry.detectors import LICENSE, PUBLIC
from vit.pretrained.registry.find import MODELS


class Listed(NamedTuple):
    name: str
    family: str
    parameters: int
    flops: int
    """Floating-point operations of one image forward at `image_size` (a multiply-add counts as two)."""
    image_size: int
    license: str
    """Of the weights."""
    sources: tuple[str, ...]
    """Values for `weights=`, besides files."""


def models(pattern: str = "*") -> list[Listed]:
    """The models whose weights can be loaded by name. `pattern`: as in a shell, `dinov*_s*`. Detectors come last; the
    parameters of classifiers are counted without a head."""
    found = []
    for row in MODELS.values():
        if not fnmatchcase(row.name, pattern):
            continue
        config = row.config
        with torch.device("meta"):
            parameters = sum(p.numel() for p in Classifier(config).parameters())
        found.append(Listed(row.name, row.family, parameters, flops(config), row.image_size, row.license, row.sources))
    return found + _detectors(pattern)


def _detectors(pattern: str) -> list[Listed]:
    found = []
    for name, public in PUBLIC.items():
        if not fnmatchcase(name, pattern):
            continue
        config, family = PRESETS[name], name.split("_")[0]
        with torch.device("meta"):
            parameters = sum(p.numel() for p in Detector(config).parameters())
        cost = detector_flops(config, public.side)
        found.append(Listed(name, family, parameters, cost, public.side, LICENSE, (public.repository,)))
    return found


def flops(config: ClassifierConfig) -> int:
    """FLOPs of the matrix products for one image at the native size, counted as torch's FlopCounterMode does."""
    e = config.encoder
    patches = e.grid[0] * e.grid[1]
    tokens = e.prefix + patches
    kernel = 2 * patches * e.in_chans * e.patch_size**2 * e.width
    feed_forward = (3 if e.feed_forward == "swiglu" else 2) * e.width * e.mlp
    block = 2 * tokens * (4 * e.width**2 + feed_forward) + 4 * tokens**2 * e.width
    total = kernel + e.depth * block + 2 * config.features * config.num_classes
    if config.pool == "attention":
        hidden = config.pool_mlp or e.mlp
        total += 2 * (2 * (tokens + 1) * e.width**2 + 2 * e.width * hidden) + 4 * tokens * e.width
    return total
