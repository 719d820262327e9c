"""The way back: a model's tensors under the names of timm, Hugging Face or torchvision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.model.classifier import Classifier
from vit.model.config import ClassifierConfig
from vit.model.position import sincos_grid
from vit.pretrained.convert.huggingface_peer import config_json, huggingface_class, preprocessor_json
from vit.pretrained.convert.timm_peer import timm_class
from vit.pretrained.files.card import CONFIG, IMAGES, our_metadata
from vit.pretrained.files.source import FILES
from vit.pretrained.layouts import huggingface as hf
from vit.pretrained.layouts.rules import Layout, write
from vit.pretrained.layouts.torchvision import TORCHVISION

Target = Literal["timm", "hf", "torchvision"]


class Exported(NamedTuple):
    made_for: str
    """The class that reads them."""
    config: ClassifierConfig
    """The config of the model that computes the same and has exactly these tensors."""
    tensors: dict[str, Tensor]


def layout_for(config: ClassifierConfig, target: Target) -> tuple[str, Layout, str]:
    """The class of `target` that computes this, its layout, and the prefix of the encoder's keys. Raises UserError if
    there is none."""
    if target == "timm":
        return *timm_class(config), ""
    if target == "hf":
        found = huggingface_class(config)
        return found.name(config), found.layout, found.prefix if config.num_classes else ""
    _refuse_torchvision(config)
    return "VisionTransformer", TORCHVISION, ""


def _refuse_torchvision(config: ClassifierConfig) -> None:
    e = config.encoder
    refused = {
        "without a head": not config.num_classes,
        f"that pools other than by the class token ({config.pool})": config.pool != "class",
        "for images that are not square": e.image_size[0] != e.image_size[1],
        "with a convolutional stem": e.stem == "conv",
        "with registers": e.registers > 0,
        "with rotary or relative positions": e.positions == "none",
        "with LayerScale": e.layer_scale is not None,
        "with a norm before the blocks": e.pre_norm,
        "with SwiGLU": e.feed_forward == "swiglu",
        f"with the activation {e.activation}": e.feed_forward == "mlp" and e.activation != "gelu",
        "without these biases": e.qkv_bias is not True or not e.bias or not e.patch_bias or not config.head_bias,
    }
    if any(refused.values()):
        parts = ", ".join(what for what, there in refused.items() if there)
        raise UserError(f"torchvision has no ViT {parts}. Use --to timm.")


def exported(model: Classifier, target: Target) -> Exported:
    """The tensors as `target` names them. Raises UserError if it has no place for a tensor."""
    config, tensors = _placed(model.config, dict(model.state_dict()), target)
    name, layout, prefix = layout_for(config, target)
    if layout is hf.DINOV2 and config.num_classes and config.pool != "class_mean":
        # Its classifier takes the class token and the mean of the patches, concatenated.
        weight = tensors["head.weight"]
        parts = [weight, torch.zeros_like(weight)]
        tensors["head.weight"] = torch.cat(parts if config.pool == "class" else parts[::-1], dim=1)
        config = replace(config, pool="class_mean")
    if target == "timm" and config.num_classes and not config.head_bias:  # CLIP's projection has none, timm's head has
        tensors["head.bias"] = tensors["head.weight"].new_zeros(config.num_classes)
        config = replace(config, head_bias=True)
    written = write(layout, config, tensors, prefix)
    if target == "hf" and config.encoder.registers:  # these classes always have a mask token, for pre-training
        token = tensors["encoder.reg_token"].new_zeros(1, 1, config.encoder.width)
        written[prefix + "embeddings.mask_token"] = token if layout is hf.DINOV3 else token[0]
    return Exported(name, config, written)


def _placed(
    config: ClassifierConfig, tensors: dict[str, Tensor], target: Target
) -> tuple[ClassifierConfig, dict[str, Tensor]]:
    """The same model with positions as `target` stores them: learned, with a row for all prefix tokens or for none
    (timm), or always for class and distillation token."""
    e, key = config.encoder, "encoder.pos_embed"
    if e.positions == "sincos":
        tensors[key] = sincos_grid(e.grid, e.width)
        e = replace(e, positions="learned", prefix_positions=0)
    if e.positions == "learned" and target == "timm" and e.prefix_positions not in (0, e.prefix):
        own, tensors[key] = tensors[key].tensor_split([e.prefix_positions], dim=1)
        for i, name in enumerate(("encoder.cls_token", "encoder.dist_token")[: e.prefix_positions]):
            tensors[name] = tensors[name] + own[:, i : i + 1]
        e = replace(e, prefix_positions=0)
    placed = int(e.class_token) + int(e.distill_token)
    if e.positions == "learned" and target != "timm" and e.prefix_positions < placed:
        zeros = tensors[key].new_zeros(1, placed - e.prefix_positions, e.width)
        tensors[key] = torch.cat([zeros, tensors[key]], dim=1)
        e = replace(e, prefix_positions=placed)
    return replace(config, encoder=e), tensors


def save_as(found: Exported, out: Path) -> None:
    """Write the tensors as one .safetensors file. Raises UserError if that fails or the suffix is another."""
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: the name of the output must end with .safetensors.")
    try:
        save_file(found.tensors, out, metadata={"format": "pt", **our_metadata(found.config)})
    except Exception as error:  # an error of safetensors or of the system
        raise UserError(f"{out} could not be written: {error}.") from None


def save_folder(found: Exported, out: Path, preprocess: Preprocess, classes: Sequence[str] = ()) -> None:
    """Write a folder for Hugging Face's `from_pretrained`: weights, config.json and preprocessor_config.json. Raises
    UserError if it cannot be written."""
    if out.is_dir() and any(out.iterdir()):
        raise UserError(
            f"{out} is a folder that is not empty. Choose a new name, so that nothing in it is overwritten."
        )
    try:
        out.mkdir(exist_ok=True)
        save_file(found.tensors, out / FILES[0], metadata={"format": "pt"})
        images = preprocessor_json(preprocess)
        for name, values in ((CONFIG, config_json(found.config, classes)), (IMAGES, images)):
            if values is not None:
                (out / name).write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
    except Exception as error:
        raise UserError(f"{out} could not be written: {error}.") from None
