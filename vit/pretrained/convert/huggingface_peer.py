"""The Hugging Face model that computes the same as a config: its classes, its layout and its config.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.model.config import ClassifierConfig
from vit.pretrained.files.card import RESAMPLE
from vit.pretrained.files.huggingface_types import ACTIVATIONS, hidden
from vit.pretrained.layouts import huggingface as hf
from vit.pretrained.layouts import huggingface_towers as towers
from vit.pretrained.layouts.rules import Layout


@dataclass(frozen=True)
class Peer:
    """A type of transformers."""

    model_type: str
    body: str
    """The class without a head."""
    layout: Layout
    head: str | None = None
    """The class with one."""
    prefix: str = ""
    """The prefix of the encoder's keys in that class."""
    output: str = "last_hidden_state"
    """The output of the class without a head."""
    head_output: str = "logits"
    """The output of the class with a head."""
    pools: tuple[str, ...] = ()
    """The kinds of pooling that its head supports."""
    differs: dict[str, Any] = field(default_factory=dict)
    """Fields of EncoderConfig that differ from PLAIN."""

    def name(self, config: ClassifierConfig) -> str:
        return self.head if config.num_classes and self.head else self.body


PLAIN: dict[str, Any] = {
    "stem": "linear", "patch_bias": True, "patch_norm": False, "relative_positions": False, "class_token": True,
    "distill_token": False, "registers": False, "pre_norm": False, "feed_forward": "mlp", "feed_forward_norm": False,
    "norm": "layernorm", "bias": True, "qkv_bias": True, "qk_norm": False, "attention_norm": False,
    "layer_scale": False, "rope": False,
}  # fmt: skip
"""Fields of Hugging Face's ViT; `registers` and `layer_scale` tell whether there are any."""
NO_CLS = {"class_token": False}
SCALED = {"layer_scale": True}
DINOV2, REGISTERS = "Dinov2", "Dinov2WithRegisters"
CLASSIFIER = "ForImageClassification"
PEERS = {
    "vit": Peer("vit", "ViTModel", hf.VIT, "ViT" + CLASSIFIER, "vit.", pools=("class",)),
    "deit": Peer(
        "deit", "DeiTModel", hf.VIT, f"DeiT{CLASSIFIER}WithTeacher", "deit.", pools=("class_distill",),
        differs={"distill_token": True},
    ),
    "ijepa": Peer("ijepa", "IJepaModel", hf.IJEPA, "IJepa" + CLASSIFIER, "ijepa.", pools=("mean",), differs=NO_CLS),
    "beit": Peer(
        "beit", "BeitModel", hf.VIT, "Beit" + CLASSIFIER, "beit.", output="pooler_output", pools=("class", "mean"),
        differs={"relative_positions": True, "qkv_bias": "qv", **SCALED},
    ),
    "dinov2": Peer(
        "dinov2", "Dinov2Model", hf.DINOV2, DINOV2 + CLASSIFIER, "dinov2.", pools=("class_mean", "class", "mean"),
        differs=SCALED,
    ),
    "dinov2_with_registers": Peer(
        "dinov2_with_registers", "Dinov2WithRegistersModel", hf.DINOV2, REGISTERS + CLASSIFIER,
        "dinov2_with_registers.", pools=("class_mean", "class", "mean"), differs={**SCALED, "registers": True},
    ),
    "dinov3": Peer(
        "dinov3_vit", "DINOv3ViTModel", hf.DINOV3,
        differs={**SCALED, "rope": True, "registers": True, "qkv_bias": "qv"},
    ),
    "clip": Peer(
        "clip_vision_model", "CLIPVisionModel", towers.CLIP, "CLIPVisionModelWithProjection", "vision_model.",
        "pooler_output", "image_embeds", ("class",), {"pre_norm": True, "patch_bias": False},
    ),
    "siglip": Peer(
        "siglip_vision_model", "SiglipVisionModel", towers.SIGLIP, output="pooler_output", differs=NO_CLS
    ),
    "naflex": Peer(
        "siglip2_vision_model", "Siglip2VisionModel", towers.NAFLEX, output="pooler_output", differs=NO_CLS
    ),
    "aimv2": Peer(
        "aimv2_vision_model", "Aimv2VisionModel", towers.AIMV2,
        differs={
            **NO_CLS, "norm": "rmsnorm", "bias": False, "qkv_bias": False, "patch_norm": True, "feed_forward": "swiglu",
        },
    ),
}  # fmt: skip


def huggingface_class(config: ClassifierConfig) -> Peer:
    """The type of transformers that computes this. Raises UserError if there is none."""
    e = config.encoder
    peer = PEERS[_nearest(config)]
    values = {key: getattr(e, key) for key in PLAIN}
    values |= {"registers": e.registers > 0, "layer_scale": e.layer_scale is not None}
    if peer.layout in (hf.DINOV2, hf.DINOV3):
        values["feed_forward"] = "mlp"  # these layouts have both kinds
    expected = {**PLAIN, **peer.differs}
    differences = [
        f"{key} is {_word(expected[key])} there, {_word(value)} here"
        for key, value in values.items()
        if value != expected[key]
    ]
    differences += [f"it has no {what}" for what, here in _details(config, peer).items() if here]
    if differences:
        raise UserError(
            f"Hugging Face's {peer.name(config)} is another model: {', '.join(differences)}. Use --to timm."
        )
    return peer


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value))


def _nearest(config: ClassifierConfig) -> str:
    e = config.encoder
    if e.rope and e.rope_places == "grid":
        raise UserError("Hugging Face has no class for a ViT with rotary positions by row and column. Use --to timm.")
    if e.relative_positions:
        return "beit"
    if e.distill_token:
        return "deit"
    if e.rope:
        return "dinov3"
    if config.pool == "attention":
        return "naflex" if e.position_resize == "bilinear" else "siglip"
    if e.pre_norm:
        return "clip"
    if e.norm == "rmsnorm":
        return "aimv2"
    if e.layer_scale is not None:
        return "dinov2_with_registers" if e.registers else "dinov2"
    return "vit" if e.class_token else "ijepa"


def _details(config: ClassifierConfig, peer: Peer) -> dict[str, bool]:
    """A feature that the type lacks -> whether this model has it."""
    e = config.encoder
    rope = e.rope_axes != "yx" or e.positions != "none"
    square = ("siglip_vision_model", "siglip2_vision_model", "clip_vision_model", "aimv2_vision_model")
    clip, head = peer.model_type == "clip_vision_model", config.num_classes > 0
    beit = (e.final_norm, config.pool_norm) == ((False, True) if config.pool == "mean" else (True, False))
    return {
        "rotary positions except DINOv3's": e.rope and rope,
        "last norms of this kind": not beit if peer.model_type == "beit" else config.pool_norm or not e.final_norm,
        "pooling with other heads or another width": bool(config.pool_heads or config.pool_mlp),
        f"head on {config.pool} pooling": head and (peer.head is None or config.pool not in peer.pools),
        "projection with a bias": clip and head and config.head_bias,
        "head without a bias": head and not clip and not config.head_bias,
        "grid that is not square": peer.model_type in square and e.grid[0] != e.grid[1],
        "way to omit positions": e.positions == "none" and not e.rope and not e.relative_positions,
        "feed-forward layers of this width": peer.layout is hf.DINOV2
        and hidden(peer.model_type, _sizes(config, peer)) != e.mlp,
    }


def _sizes(config: ClassifierConfig, peer: Peer) -> dict[str, Any]:
    e = config.encoder
    fields: dict[str, Any] = {"hidden_size": e.width, "intermediate_size": e.mlp}
    if peer.layout is hf.DINOV2:
        gated = e.feed_forward == "swiglu"
        ratio = e.mlp * 1.5 / e.width if gated else e.mlp / e.width
        nearest = round(ratio) if gated or ratio == round(ratio) else ratio
        fields |= {"use_swiglu_ffn": gated, "mlp_ratio": nearest}
    return fields


def config_json(config: ClassifierConfig, classes: Sequence[str] = ()) -> dict[str, Any]:
    """The config.json from which `from_pretrained` makes the same model. classes: their names, for a head."""
    e, peer = config.encoder, huggingface_class(config)
    height, width = e.image_size
    names = {theirs: ours for ours, theirs in reversed(ACTIVATIONS.items())}
    values: dict[str, Any] = {
        "architectures": [peer.name(config)],
        "model_type": peer.model_type,
        **_sizes(config, peer),
        "num_hidden_layers": e.depth,
        "num_attention_heads": e.heads,
        "patch_size": e.patch_size,
        "image_size": height if height == width else [height, width],
        "num_channels": e.in_chans,
        "hidden_act": "silu" if e.feed_forward == "swiglu" and peer.layout is not hf.DINOV2 else names[e.activation],
        "rms_norm_eps" if e.norm == "rmsnorm" else "layer_norm_eps": e.eps,
        "dtype": "float32",
    }
    if peer.model_type == "beit":
        values |= {"use_relative_position_bias": True, "use_mean_pooling": config.pool == "mean"}
        values |= {
            "use_absolute_position_embeddings": e.positions == "learned",
            "layer_scale_init_value": e.layer_scale,
        }
    if peer.model_type == "dinov3_vit":
        values |= {"num_register_tokens": e.registers, "rope_theta": e.rope_base}
        values |= {
            "use_gated_mlp": e.feed_forward == "swiglu",
            "query_bias": True,
            "key_bias": False,
            "value_bias": True,
        }
    if peer.model_type == "dinov2_with_registers":
        values["num_register_tokens"] = e.registers
    if peer.model_type == "dinov2":
        values["use_mask_token"] = False
    if peer.model_type == "siglip2_vision_model":
        values["num_patches"] = e.grid[0] * e.grid[1]
        del values["image_size"]
    if peer.model_type == "aimv2_vision_model":
        values["use_head"] = False
    if peer.model_type == "clip_vision_model" and config.num_classes:
        values["projection_dim"] = config.num_classes
    elif config.num_classes:
        labels = list(classes) if len(classes) == config.num_classes else [str(i) for i in range(config.num_classes)]
        values |= {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    return values


def preprocessor_json(preprocess: Preprocess) -> dict[str, Any] | None:
    """The preprocessor_config.json that does the same; None if Hugging Face has no processor for it."""
    if preprocess.resize == "letterbox" or preprocess.interpolation not in RESAMPLE:
        return None
    height, width = preprocess.size
    values: dict[str, Any] = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        "resample": RESAMPLE.index(preprocess.interpolation),
        "do_resize": True,
    }
    if preprocess.resize == "squash":
        return {"image_processor_type": "ViTImageProcessor", "size": {"height": height, "width": width}, **values}
    if height != width:
        return None
    return {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": math.floor(height / preprocess.crop + 1e-6)},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        **values,
    }
