"""The registry: every model by name, found by name, by source or by the card of its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from vit.errors import UserError, nearest
from vit.model.config import SIZES, ClassifierConfig, Size, preset
from vit.pretrained.files.card import Card
from vit.pretrained.layouts.rules import Layout
from vit.pretrained.registry.families import FAMILIES
from vit.pretrained.registry.model import Model
from vit.pretrained.registry.table import rows

MODELS = {row.name: row for row in rows()}
TIMM_TANH = ("siglip2_b32", "siglip2_so400m16", "siglip2_g16", "siglip2_l16_512")
"""SigLIP models for which timm, too, uses the tanh approximation of GELU."""


def find(name: str) -> Model:
    """The row of a name, or a new one for any `vit_SIZE+PATCH` of `preset`. Raises UserError with the nearest name."""
    if name in MODELS:
        return MODELS[name]
    if re.fullmatch(r"vit_[a-z0-9]+?\d+(_(conv|rope|mean))*", name):
        e = preset(name).encoder
        size = Size(e.width, e.depth, e.heads, e.mlp)
        fields = {key: getattr(e, key) for key in ("stem", "positions", "rope", "class_token")}
        fields["prefix_positions"] = min(e.prefix, int(e.positions == "learned"))
        family, top = "vit_rope" if e.rope else "vit", {"pool": preset(name).pool}
        return Model(name, family, size, e.patch_size, e.image_size[0], fields=fields, top=top)
    raise UserError(
        f"No model is called {name!r}.{nearest(name, MODELS)} `vitral models` lists all; vit_SIZE+PATCH with SIZE "
        f"one of {', '.join(SIZES)} makes a plain ViT."
    )


def in_layout(model: Model, layout: Layout) -> ClassifierConfig:
    """The model's config as the code base of the layout computes it."""
    config, other = model.config, FAMILIES[model.family].in_timm
    if not layout.name.startswith("timm") or model.name in TIMM_TANH:
        return config
    top = {key: value for key, value in other.items() if key in ("pool",)}
    rest = {key: value for key, value in other.items() if key not in top}
    return replace(config, encoder=replace(config.encoder, **rest), **top)


def by_source(source: str) -> Model | None:
    """The row of the weights `timm:NAME` or `hf:OWNER/REPO`; timm's names also match with another input size and with
    other weights of the same model."""
    kind, _, name = source.partition(":")
    if kind == "hf" and not name.startswith("timm/"):
        repo = "/".join(name.split("/")[:2])
        return next((row for row in MODELS.values() if row.hf == repo), None)
    name = name.removeprefix("timm/")
    tag = name.partition(".")[2]

    def mismatch(row: Model) -> tuple[bool, bool]:
        """Prefer the row of exactly these weights, then that of the architecture, then those of other weights."""
        listed = (row.timm or "").partition(".")[2]
        return (bool(listed) and listed != tag, listed != tag)

    for same in (_without_tag, _without_size):
        rows = [row for row in MODELS.values() if row.timm and same(row.timm) == same(name)]
        if rows:
            return min(rows, key=mismatch)
    return None


def _without_tag(name: str) -> str:
    return name.partition(".")[0]


def _without_size(name: str) -> str:
    """vit_base_patch16_384.augreg_in1k -> vit_base_patch16"""
    return re.sub(r"_\d+$", "", _without_tag(name))


def by_card(card: Card, keys: Iterable[str]) -> Model | None:
    """The model that the config.json beside weights with these keys describes; None if it does not tell."""
    if card.family is None or card.size is None or card.image_size is None:
        return None
    family = card.family
    if family == "clip" and card.encoder.get("activation") != "quick_gelu":
        family = "openclip"
    if family == "deit" and any(key.endswith("embeddings.distillation_token") for key in keys):
        family = "deitd"
    fields = {key: card.encoder[key] for key in ("feed_forward",) if key in card.encoder}
    name = f"{family} of width {card.size.width}"
    return Model(name, family, card.size, card.patch, max(card.image_size) // card.patch * card.patch, fields=fields)
