"""What is stored beside weights and describes what their keys do not tell: Hugging Face's config.json and
preprocessor_config.json, and timm's data config."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vit.errors import UserError
from vit.model.config import ClassifierConfig, EncoderConfig, Size, changed
from vit.pretrained.files.huggingface_types import ACTIVATIONS, KINDS, hidden, tower

CONFIG, IMAGES = "config.json", "preprocessor_config.json"
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box")
"""Pillow's numbers, as preprocessor_config.json gives them."""


@dataclass(frozen=True)
class Card:
    family: str | None = None
    size: Size | None = None
    patch: int = 16
    image_size: tuple[int, int] | None = None
    """(H, W) in pixels of the learned positions."""
    encoder: dict[str, Any] = field(default_factory=dict)
    """Fields of EncoderConfig, as the code base that wrote the weights computes."""
    pool: str | None = None
    """"class" or "mean"."""
    top: dict[str, Any] = field(default_factory=dict)
    """Fields of ClassifierConfig."""
    images: dict[str, Any] = field(default_factory=dict)
    """Fields of Preprocess, except its size."""


NOTHING = Card()


OURS = "vitral"
"""The entry that `our_card` reads in the metadata of a safetensors file that vitral converted."""
COMPUTED = (
    "activation", "eps", "position_resize", "kernel_resize", "rope_base", "rope_places", "rope_offset", "rope_axes",
    "rope_reference", "rope_bf16", "layer_scale",
)  # fmt: skip
"""Fields of EncoderConfig that no tensor tells, and LayerScale, which the family of the name may lack."""


def our_metadata(config: ClassifierConfig) -> dict[str, str]:
    """The metadata of a converted file, from which reading it gives the same model back."""
    e = config.encoder
    values = {"image_size": e.image_size, "pool": config.pool, "top": {key: getattr(config, key) for key in TOP}}
    return {OURS: json.dumps({**values, "encoder": {key: getattr(e, key) for key in COMPUTED}})}


TOP = ("pool_heads", "pool_prefix")


def our_card(text: str, where: str) -> Card:
    """The card that `our_metadata` wrote. Raises UserError if it is damaged."""
    try:
        values = json.loads(text)
        encoder = {key: values["encoder"][key] for key in COMPUTED}
        top = {key: values["top"][key] for key in TOP}
        height, width = map(int, values["image_size"])
        changed(EncoderConfig(), encoder)
        return Card(image_size=(height, width), encoder=encoder, pool=values["pool"], top=top)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{where}: its metadata {OURS!r} are damaged ({error!r}). Convert it again.") from None


def folder_card(folder: Path) -> Card:
    """The card of a folder that Hugging Face's `save_pretrained` wrote. Raises UserError if its JSON is damaged."""
    return huggingface_card(_json(folder / CONFIG), _json(folder / IMAGES), str(folder / CONFIG))


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}. Fetch it again.") from None
    return found if isinstance(found, dict) else {}


def huggingface_card(config: Mapping[str, Any], images: Mapping[str, Any], where: str) -> Card:
    """config, images: the two JSON files, or {}; where: the first, for messages. Raises UserError on values that no
    model can have."""
    found = tower(config)
    try:
        seen = _images(images)
        if found is None:
            return Card(images=seen)
        kind, fields = found
        size = Size(
            int(fields["hidden_size"]),
            int(fields["num_hidden_layers"]),
            int(fields["num_attention_heads"]),
            hidden(kind, fields),
        )
        patch = int(fields["patch_size"])
        side = fields["image_size"] if "num_patches" not in fields else math.isqrt(fields["num_patches"]) * patch
        height, width = side if isinstance(side, list | tuple) else (side, side)
        encoder: dict[str, Any] = {"eps": float(fields.get("rms_norm_eps", fields["layer_norm_eps"]))}
        gated = bool(fields.get("use_gated_mlp") or fields.get("use_swiglu_ffn")) or kind.startswith("aimv2")
        activation = str(fields["hidden_act"])
        if gated:
            encoder["feed_forward"] = "swiglu"
        elif activation in ACTIVATIONS:
            encoder["activation"] = ACTIVATIONS[activation]
        if activation not in ACTIVATIONS or (
            gated and not kind.startswith("dinov2") and ACTIVATIONS[activation] != "silu"
        ):
            raise UserError(f"{where}: no model with hidden_act {activation!r}{' and a gate' * gated} is supported.")
        if kind == "dinov3_vit":
            rope = fields.get("rope_parameters")
            encoder["rope_base"] = float((rope if isinstance(rope, Mapping) else fields).get("rope_theta", 100.0))
        return Card(KINDS[kind].family, size, patch, (int(height), int(width)), encoder, images=seen)
    except (TypeError, ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where} does not describe a model: {error}.") from None


def _images(values: Mapping[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json -> fields of Preprocess; missing ones stay the family's."""
    found: dict[str, Any] = {}
    mean, std = values.get("image_mean"), values.get("image_std")
    if values.get("do_normalize", True) and isinstance(mean, list) and isinstance(std, list) and len(mean) == 3:
        found |= {"mean": tuple(mean), "std": tuple(std)}
    if isinstance(values.get("resample"), int) and values["resample"] < len(RESAMPLE):
        found["interpolation"] = RESAMPLE[values["resample"]]
    size, crop = (_side(values.get(name)) for name in ("size", "crop_size"))
    if values.get("do_center_crop") and size and crop:
        found |= {"resize": "crop", "crop": min(1.0, crop / size)}
    elif size and not values.get("do_center_crop"):
        whole = isinstance(values["size"], Mapping) and "shortest_edge" in values["size"]
        found |= {"resize": "crop", "crop": 1.0} if whole else {"resize": "squash", "crop": 1.0}
    return found


def _side(value: Any) -> int | None:
    """Pixels of the shorter side: `size` and `crop_size` are a number or a dictionary."""
    if isinstance(value, Mapping):
        sides = [side for name in ("shortest_edge", "height", "width") if isinstance(side := value.get(name), int)]
        return min(sides) if sides else None
    return value if isinstance(value, int) else None


def timm_card(model: Any, pretrained: Mapping[str, Any]) -> Card:
    """The card of a timm model and its data config."""
    block = model.blocks[0]
    encoder: dict[str, Any] = {"eps": block.norm1.eps}
    activation = getattr(block.mlp, "act", None)
    kind = type(activation).__name__
    if kind == "GELU" and getattr(activation, "approximate", "none") == "tanh":
        kind = "GELUTanh"
    names = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "ReLU": "relu"}
    if kind in names:
        encoder["activation"] = names[kind]
    resize = {"center": "crop", "squash": "squash", "border": "letterbox"}.get(str(pretrained.get("crop_mode")))
    images = {
        "mean": pretrained.get("mean"),
        "std": pretrained.get("std"),
        "crop": pretrained.get("crop_pct"),
        "interpolation": pretrained.get("interpolation"),
        "resize": resize,
    }
    pool = {"token": "class", "avg": "mean"}.get(model.global_pool)
    return Card(encoder=encoder, pool=pool, images={key: value for key, value in images.items() if value is not None})
