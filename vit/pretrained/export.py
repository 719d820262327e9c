"""The way back: a model's tensors under the names of timm, Hugging Face or torchvision, and a certificate of parity."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from vit.classifier import Classifier
from vit.config import ClassifierConfig
from vit.errors import UserError
from vit.pretrained import huggingface_layouts as hf
from vit.pretrained import timm_layouts as tl
from vit.pretrained.rules import Layout, write
from vit.pretrained.torchvision_layouts import TORCHVISION

Target = Literal["timm", "hf", "torchvision"]
HF_PREFIX = {hf.VIT: "vit.", hf.DINOV2: "dinov2.", hf.CLIP: "vision_model.", hf.SIGLIP: "vision_model."}
"""What Hugging Face puts before the encoder's keys in a model that has a head."""


def layout_for(config: ClassifierConfig, target: Target) -> Layout:
    """The layout in which `target` keeps such a model. Raises UserError where it has no class for it."""
    e = config.encoder
    if e.stem == "conv":
        raise UserError(f"{target} has no ViT with this convolutional stem; export to ONNX instead.")
    if target == "torchvision":
        return TORCHVISION
    return _timm(config) if target == "timm" else _huggingface(config)


def _timm(config: ClassifierConfig) -> Layout:
    e = config.encoder
    if e.relative_positions:
        return tl.TIMM_BEIT
    if e.rope and not e.pre_norm:
        if e.feed_forward_norm:
            return tl.TIMM_EVA_SPLIT
        return tl.TIMM_EVA if e.rope_places == "centered" else tl.TIMM_EVA_PACKED
    return tl.TIMM if e.norm == "rmsnorm" or e.rope else tl.TIMM_PACKED


def _huggingface(config: ClassifierConfig) -> Layout:
    e = config.encoder
    if e.rope:
        if e.rope_places == "grid":
            raise UserError("Hugging Face has no class for this ViT with rotary positions; use --to timm.")
        return hf.DINOV3
    if config.pool == "attention":
        return hf.SIGLIP
    if e.pre_norm:
        return hf.CLIP
    if e.norm == "rmsnorm":
        return hf.AIMV2
    return hf.DINOV2 if e.layer_scale is not None and not e.relative_positions else hf.VIT


def exported(model: Classifier, target: Target) -> dict[str, Tensor]:
    """The tensors as `target` names them. Raises UserError on what it has no place for."""
    config = model.config
    layout = layout_for(config, target)
    tensors = dict(model.state_dict())
    e = config.encoder
    if layout in (TORCHVISION, hf.VIT, hf.DINOV2) and e.positions == "learned":
        if layout is TORCHVISION and (config.pool != "class" or e.registers):
            raise UserError("torchvision's ViT has a class token, pools it, and has no registers; use --to timm.")
        placed = int(e.class_token) + int(e.distill_token)
        if e.prefix_positions < placed:  # these always give the class token a position: one of zeros
            position = tensors["encoder.pos_embed"]
            zeros = position.new_zeros(1, placed - e.prefix_positions, e.width)
            tensors["encoder.pos_embed"] = torch.cat([zeros, position], dim=1)
    if layout is hf.DINOV2 and config.num_classes and config.pool != "class_mean":
        # Its classifier sees the class token and the mean of the patches, side by side.
        weight = tensors["head.weight"]
        parts = [weight, torch.zeros_like(weight)]
        tensors["head.weight"] = torch.cat(parts if config.pool == "class" else parts[::-1], dim=1)
    if layout is hf.CLIP and config.num_classes and config.head_bias:
        raise UserError("Hugging Face's CLIP projects without a bias, and this head has one; use --to timm.")
    prefix = HF_PREFIX.get(layout, "") if config.num_classes else ""
    return write(layout, config, tensors, prefix)


def save_as(model: Classifier, target: Target, out: Path) -> None:
    """Write `exported` tensors as one .safetensors file; UserError when the name or the disk will not do."""
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: name the output OUT.safetensors.")
    tensors = exported(model, target)
    try:
        save_file(tensors, out, metadata={"format": "pt"})
    except OSError as error:
        raise UserError(f"{out} could not be written: {error}.") from None


def certificate(model: Classifier, target: Target, *, seed: int = 0) -> dict[str, Any]:
    """Compare logits (pooled features where there is no head) with the reference library on a random image in fp32.

    Raises UserError where that library is missing or has no class that can be built from the config alone.
    """
    e = model.config.encoder
    reference, version = _reference(model.config, target)
    reference.load_state_dict(exported(model, target))
    reference.eval()
    shape = (2, e.in_chans, *e.image_size)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    model.eval()
    with torch.inference_mode():
        ours, theirs = model(image), reference(image)
    difference = float((ours - theirs).abs().max())
    return {
        "reference": version,
        "torch": torch.__version__,
        "input": f"torch.randn({list(shape)}, seed {seed}), float32",
        "largest_absolute_difference": difference,
        "largest_relative_difference": difference / float(theirs.abs().max()),
    }


def _reference(config: ClassifierConfig, target: Target) -> tuple[torch.nn.Module, str]:
    e = config.encoder
    if target == "torchvision":
        import torchvision
        from torchvision.models.vision_transformer import VisionTransformer

        if e.image_size[0] != e.image_size[1] or not config.num_classes:
            raise UserError(
                "torchvision's ViT takes square images and has a head: this model cannot be checked with it."
            )
        size = e.image_size[0]
        model = VisionTransformer(size, e.patch_size, e.depth, e.heads, e.width, e.mlp, num_classes=config.num_classes)
        return model, f"torchvision {torchvision.__version__}"
    if target == "hf":
        raise UserError("--check compares with timm or torchvision: convert --to timm --check.")
    import timm
    from timm.models.vision_transformer import VisionTransformer as TimmVit

    if e.rope or e.relative_positions or config.pool not in ("class", "mean", "attention") or e.feed_forward != "mlp":
        raise UserError("--check builds timm's VisionTransformer from the config, which this model is not.")
    norm = torch.nn.LayerNorm if e.norm == "layernorm" else torch.nn.RMSNorm
    model = TimmVit(
        img_size=e.image_size,
        patch_size=e.patch_size,
        in_chans=e.in_chans,
        num_classes=config.num_classes,
        global_pool={"class": "token", "mean": "avg", "attention": "map"}[config.pool],  # pyright: ignore
        embed_dim=e.width,
        depth=e.depth,
        num_heads=e.heads,
        mlp_ratio=e.mlp / e.width,
        qkv_bias=bool(e.qkv_bias),
        qk_norm=e.qk_norm,
        init_values=e.layer_scale,
        class_token=e.class_token,
        reg_tokens=e.registers,
        no_embed_class=e.prefix_positions == 0,
        pos_embed="learn" if e.positions == "learned" else "none",
        pre_norm=e.pre_norm,
        final_norm=e.final_norm or config.pool_norm,
        fc_norm=config.pool_norm,
        norm_layer=lambda width, **kw: norm(width, eps=e.eps, **kw),  # pyright: ignore
        act_layer={"gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "silu": "silu"}[e.activation],
    )
    return model, f"timm {timm.__version__}"
