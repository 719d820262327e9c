"""Vision towers in Hugging Face's config.json: their types, defaults and fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """A `model_type` of transformers."""

    family: str
    defaults: dict[str, Any]
    """The defaults of its config class, which a config.json may omit."""


VIT = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "patch_size": 16,
    "image_size": 224, "num_channels": 3, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
}  # fmt: skip
DINOV2 = {**VIT, "layer_norm_eps": 1e-6, "mlp_ratio": 4}
SIGLIP = {**VIT, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"}
KINDS = {
    "vit": Kind("vit", VIT),
    "deit": Kind("deit", VIT),
    "vit_mae": Kind("mae", VIT),
    "ijepa": Kind("ijepa", VIT),
    "beit": Kind("beit", VIT),
    "dinov2": Kind("dinov2", {**DINOV2, "patch_size": 14}),
    "dinov2_with_registers": Kind("dinov2", DINOV2),
    "dinov3_vit": Kind(
        "dinov3",
        {**VIT, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "layer_norm_eps": 1e-5},
    ),
    "clip_vision_model": Kind(
        "clip", {**VIT, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    ),
    "siglip_vision_model": Kind("siglip", SIGLIP),
    "siglip2_vision_model": Kind("siglip2_naflex", {**SIGLIP, "num_patches": 256}),
    "aimv2_vision_model": Kind(
        "aimv2",
        {
            **VIT, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 8, "intermediate_size": 2816,
            "patch_size": 14, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        },
    ),
}  # fmt: skip
TOWERS = {name.removesuffix("_vision_model"): name for name in KINDS if name.endswith("_vision_model")}
"""Model type -> the type of its image tower."""
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}


def tower(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The type and fields, defaults included, of a config.json's image tower; None if it is not a plain ViT."""
    kind = config.get("model_type")
    fields = config.get("vision_config") if kind in TOWERS else None
    kind = TOWERS.get(str(kind), kind)
    if kind not in KINDS:
        return None
    return kind, {**KINDS[kind].defaults, **(fields if isinstance(fields, Mapping) else config)}


def hidden(kind: str, fields: Mapping[str, Any]) -> int:
    """Hidden width of the feed-forward layers. Dinov2 derives it, and takes two thirds of it with a gate."""
    if not kind.startswith("dinov2"):
        return int(fields["intermediate_size"])
    width = int(fields["hidden_size"] * fields["mlp_ratio"])
    return (int(width * 2 / 3) + 7) // 8 * 8 if fields.get("use_swiglu_ffn") else width
