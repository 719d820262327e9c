"""One row of the registry: a public model, its size, and where its weights are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from vit.images.preprocess import Preprocess
from vit.model.config import ClassifierConfig, EncoderConfig, Size
from vit.pretrained.registry.families import FAMILIES


@dataclass(frozen=True)
class Model:
    """One row of the registry."""

    name: str
    family: str
    size: Size
    patch: int
    image_size: int
    timm: str | None = None
    """NAME of `timm:NAME` with its weights."""
    hf: str | None = None
    """OWNER/REPO of `hf:OWNER/REPO`."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields of the encoder that differ from the family's."""
    top: dict[str, Any] = field(default_factory=dict)
    """Fields of the classifier that differ."""
    images: dict[str, Any] = field(default_factory=dict)
    """Fields of Preprocess that differ from the family's."""
    weights_license: str | None = None
    """If it differs from the family's."""
    untrained: bool = False
    """timm has the architecture but no weights."""

    @property
    def license(self) -> str:
        return self.weights_license or FAMILIES[self.family].license

    @property
    def sources(self) -> tuple[str, ...]:
        """Values for `weights=`, besides files."""
        timm = [f"timm:{self.timm}"] if self.timm and not self.untrained else []
        return (*timm, *([f"hf:{self.hf}"] if self.hf else []))

    @property
    def config(self) -> ClassifierConfig:
        family = FAMILIES[self.family]
        base = EncoderConfig(*self.size, patch_size=self.patch, image_size=(self.image_size, self.image_size))
        encoder = replace(base, **{**family.encoder, **self.fields})
        if family.own_reference:
            encoder = replace(encoder, rope_reference=encoder.grid)
        return ClassifierConfig(encoder, num_classes=0, **{**family.classifier, **self.top})

    @property
    def preprocess(self) -> Preprocess:
        family = FAMILIES[self.family]
        mean, std = family.statistics
        values: dict[str, Any] = {"crop": family.crop, "mean": mean, "std": std, **self.images}
        return Preprocess((self.image_size, self.image_size), **values)
