"""Weights of public detectors under our names: one table of key names for each layout.

It reads the .pth files of the `rfdetr` package and of LW-DETR, and both models as Hugging Face stores them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor

from vit.errors import UserError, shown

Rules = list[tuple[str, str]]
"""(pattern, replacement): the first pattern that matches the whole name gives the new one; "" drops the tensor."""


class Layout(NamedTuple):
    name: str
    mark: str
    """A name that only this layout has."""
    rules: Rules


_HEADS: Rules = [
    (r"class_embed\.(\w+)", r"class_head.\1"),
    (r"bbox_embed\.layers\.(\d)\.(\w+)", r"box_head.layers.\1.\2"),
]
_SELECTION: Rules = [
    (r"enc_output\.(\d+)\.(\w+)", r"selection.\1.proj.\2"),
    (r"enc_output_norm\.(\d+)\.(\w+)", r"selection.\1.norm.\2"),
    (r"enc_out_class_embed\.(\d+)\.(\w+)", r"selection.\1.class_head.\2"),
    (r"enc_out_bbox_embed\.(\d+)\.layers\.(\d)\.(\w+)", r"selection.\1.box_head.layers.\2.\3"),
]
_CROSS: Rules = [
    (r"decoder\.layers\.(\d+)\.cross_attn\.sampling_offsets\.(\w+)", r"decoder.layers.\1.cross.offsets.\2"),
    (r"decoder\.layers\.(\d+)\.cross_attn\.attention_weights\.(\w+)", r"decoder.layers.\1.cross.weights.\2"),
    (r"decoder\.layers\.(\d+)\.cross_attn\.value_proj\.(\w+)", r"decoder.layers.\1.cross.value.\2"),
    (r"decoder\.layers\.(\d+)\.cross_attn\.output_proj\.(\w+)", r"decoder.layers.\1.cross.proj.\2"),
    (r"decoder\.ref_point_head\.layers\.(\d)\.(\w+)", r"decoder.position.layers.\1.\2"),
]
_DINO: Rules = [
    (r"embeddings\.cls_token", "encoder.cls_token"),
    (r"embeddings\.mask_token", ""),
    (r"embeddings\.position_embeddings", "encoder.pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"encoder.patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+)\.(norm[12]|mlp\.fc[12])\.(\w+)", r"encoder.blocks.\1.\2.\3"),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"encoder.blocks.\1.ls\2.gamma"),
    (r"layernorm\.(\w+)", r"encoder.norm.\1"),
]

# The rfdetr package and LW-DETR's repository, which share everything but the encoder.
_ORIGINAL: Rules = [
    *((rf"transformer\.{old}", new) for old, new in [*_SELECTION, *_CROSS]),
    (r"transformer\.decoder\.layers\.(\d+)\.self_attn\.in_proj_(\w+)", r"decoder.layers.\1.attn.qkv.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"decoder.layers.\1.attn.proj.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.(norm[123])\.(\w+)", r"decoder.layers.\1.\2.\3"),
    (r"transformer\.decoder\.layers\.(\d+)\.linear([12])\.(\w+)", r"decoder.layers.\1.mlp.fc\2.\3"),
    (r"transformer\.decoder\.norm\.(\w+)", r"decoder.norm.\1"),
    (r"backbone\.0\.projector\.stages_sampling\.(\d)\.(\d)\.(.+)", r"neck.scales.\1.resize.\2.\3"),
    (r"backbone\.0\.projector\.stages\.(\d)\.0\.cv1\.(\w+)\.(\w+)", r"neck.scales.\1.mix.enter.\2.\3"),
    (r"backbone\.0\.projector\.stages\.(\d)\.0\.cv2\.(\w+)\.(\w+)", r"neck.scales.\1.mix.leave.\2.\3"),
    (r"backbone\.0\.projector\.stages\.(\d)\.0\.m\.(\d)\.cv1\.(\w+)\.(\w+)", r"neck.scales.\1.mix.chain.\2.0.\3.\4"),
    (r"backbone\.0\.projector\.stages\.(\d)\.0\.m\.(\d)\.cv2\.(\w+)\.(\w+)", r"neck.scales.\1.mix.chain.\2.1.\3.\4"),
    (r"backbone\.0\.projector\.stages\.(\d)\.1\.(\w+)", r"neck.scales.\1.norm.\2"),
    (r"refpoint_embed\.weight", "query_box"),
    (r"query_feat\.weight", "query"),
    (r"_kp_active_mask", ""),
    *_HEADS,
]
_RFDETR: Rules = [
    *((rf"backbone\.0\.encoder\.encoder\.{old}", new) for old, new in _DINO),
    (
        r"backbone\.0\.encoder\.encoder\.encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)",
        r"encoder.blocks.\1.attn.\2.\3",
    ),
    (
        r"backbone\.0\.encoder\.encoder\.encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)",
        r"encoder.blocks.\1.attn.proj.\2",
    ),
    *_ORIGINAL,
]
_LWDETR: Rules = [
    (r"backbone\.0\.encoder\.(pos_embed|patch_embed\.proj\.\w+)", r"encoder.\1"),
    (r"backbone\.0\.encoder\.blocks\.(\d+)\.gamma_([12])", r"encoder.blocks.\1.ls\2.gamma"),
    (r"backbone\.0\.encoder\.(blocks\.\d+\.(?:norm[12]|attn|mlp)\..+)", r"encoder.\1"),
    *_ORIGINAL,
]

_HUGGING: Rules = [
    *((rf"model\.{old}", new) for old, new in [*_SELECTION, *_CROSS]),
    (r"model\.decoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", r"decoder.layers.\1.attn.\2.\3"),
    (r"model\.decoder\.layers\.(\d+)\.self_attn\.o_proj\.(\w+)", r"decoder.layers.\1.attn.proj.\2"),
    (r"model\.decoder\.layers\.(\d+)\.self_attn_layer_norm\.(\w+)", r"decoder.layers.\1.norm1.\2"),
    (r"model\.decoder\.layers\.(\d+)\.cross_attn_layer_norm\.(\w+)", r"decoder.layers.\1.norm2.\2"),
    (r"model\.decoder\.layers\.(\d+)\.layer_norm\.(\w+)", r"decoder.layers.\1.norm3.\2"),
    (r"model\.decoder\.layers\.(\d+)\.(mlp\.fc[12])\.(\w+)", r"decoder.layers.\1.\2.\3"),
    (r"model\.decoder\.layernorm\.(\w+)", r"decoder.norm.\1"),
    # RF-DETR has one scale, which its names leave out.
    (r"model\.backbone\.projector\.(projector_layer|layer_norm)\.(.+)", r"neck.scales.0.\1.\2"),
    (
        r"model\.backbone\.projector\.scale_layers\.(\d)\.sampling_layers\.(\d)\.layers\.(.+)",
        r"neck.scales.\1.resize.\2.\3",
    ),
    (r"model\.backbone\.projector\.scale_layers\.(\d)\.(.+)", r"neck.scales.\1.\2"),
    (r"model\.reference_point_embed\.weight", "query_box"),
    (r"model\.query_feat\.weight", "query"),
    (
        r"model\.backbone\.backbone\.encoder\.layer\.(\d+)\.attention\.([qkv])_proj\.(\w+)",
        r"encoder.blocks.\1.attn.\2.\3",
    ),
    (r"model\.backbone\.backbone\.encoder\.layer\.(\d+)\.attention\.o_proj\.(\w+)", r"encoder.blocks.\1.attn.proj.\2"),
    *_HEADS,
]
_HUGGING_RFDETR: Rules = [
    *((rf"model\.backbone\.backbone\.{old}", new) for old, new in _DINO),
    *_HUGGING,
]
_HUGGING_LWDETR: Rules = [
    (r"model\.backbone\.backbone\.embeddings\.position_embeddings", "encoder.pos_embed"),
    (r"model\.backbone\.backbone\.embeddings\.projection\.(\w+)", r"encoder.patch_embed.proj.\1"),
    (r"model\.backbone\.backbone\.encoder\.layer\.(\d+)\.gamma_([12])", r"encoder.blocks.\1.ls\2.gamma"),
    # The names in files; in memory, transformers 5 uses those of _HUGGING.
    (
        r"model\.backbone\.backbone\.encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)",
        r"encoder.blocks.\1.attn.\2.\3",
    ),
    (r"model\.backbone\.backbone\.encoder\.layer\.(\d+)\.attention\.output\.(\w+)", r"encoder.blocks.\1.attn.proj.\2"),
    (
        r"model\.backbone\.backbone\.encoder\.layer\.(\d+)\.intermediate\.(fc[12])\.(\w+)",
        r"encoder.blocks.\1.mlp.\2.\3",
    ),
    (r"model\.backbone\.backbone\.encoder\.layer\.(\d+)\.layernorm_before\.(\w+)", r"encoder.blocks.\1.norm1.\2"),
    (r"model\.backbone\.backbone\.encoder\.layer\.(\d+)\.layernorm_after\.(\w+)", r"encoder.blocks.\1.norm2.\2"),
    *_HUGGING,
]

# Hugging Face's names inside a scale of the neck, which the tables above leave unchanged.
_INNER: Rules = [
    (r"(neck\.scales\.\d)\.projector_layer\.conv1\.(.+)", r"\1.mix.enter.\2"),
    (r"(neck\.scales\.\d)\.projector_layer\.conv2\.(.+)", r"\1.mix.leave.\2"),
    (r"(neck\.scales\.\d)\.projector_layer\.bottlenecks\.(\d)\.conv1\.(.+)", r"\1.mix.chain.\2.0.\3"),
    (r"(neck\.scales\.\d)\.projector_layer\.bottlenecks\.(\d)\.conv2\.(.+)", r"\1.mix.chain.\2.1.\3"),
    (r"(neck\.scales\.\d)\.layer_norm\.(\w+)", r"\1.norm.\2"),
]

LAYOUTS = [
    Layout("rfdetr", "backbone.0.encoder.encoder.embeddings.cls_token", _RFDETR),
    Layout("LW-DETR", "backbone.0.encoder.pos_embed", _LWDETR),
    Layout("Hugging Face RF-DETR", "model.backbone.backbone.embeddings.cls_token", _HUGGING_RFDETR),
    Layout("Hugging Face LW-DETR", "model.backbone.backbone.embeddings.projection.weight", _HUGGING_LWDETR),
]


def convert(tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of a public detector, in any of LAYOUTS, under the names of `vit.detector.Detector`.

    Raises UserError, naming `source`, on another layout and on an unknown name.
    """
    found = next(((name, layout) for layout in LAYOUTS for name in tensors if _ends(name, layout.mark)), None)
    if found is None:
        raise UserError(
            f"{source} is not a supported detector ({shown([layout.name for layout in LAYOUTS])}). "
            f"Its first tensors: {shown(list(tensors), 3)}. If it is an encoder, name it: --encoder dinov2_s14."
        )
    name, layout = found
    # A training script may store the detector as a part of a larger module.
    outer = name.removesuffix(layout.mark)
    tensors = {name.removeprefix(outer): tensor for name, tensor in tensors.items() if name.startswith(outer)}
    renamed: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in tensors.items():
        new = _renamed(name, layout.rules)
        if new is None:
            unknown.append(name)
        elif new:
            renamed[new] = tensor
    if unknown:
        raise UserError(f"{source} looks like {layout.name} but has unknown tensors: {shown(unknown, 5)}.")
    if missing := [new for new in _NEEDED if new not in renamed]:
        raise UserError(f"{source} looks like {layout.name} but is incomplete: it lacks {shown(missing)}.")
    return _reshaped(_fused(renamed))


_NEEDED = ("encoder.patch_embed.proj.weight", "encoder.pos_embed", "query", "query_box", "class_head.bias")
"""Without these a file cannot be identified; other missing tensors are reported when the model is filled."""


def _ends(name: str, mark: str) -> bool:
    return name == mark or name.endswith("." + mark)


def _renamed(name: str, rules: Rules) -> str | None:
    for stage in (rules, _INNER):
        for pattern, replacement in stage:
            match = re.fullmatch(pattern, name)
            if match:
                name = match.expand(replacement)
                break
        else:
            if stage is rules:
                return None
    return name.replace(".bn.", ".norm.")


def _fused(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Separate queries, keys and values -> one matrix `qkv`. In the encoder of LW-DETR, keys have no bias."""
    fused = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.+\.attn)\.(q|k|v|query|key|value)\.(weight|bias)", name)
        if match is None:
            fused[name] = tensor
            continue
        attention, part, kind = match.groups()
        short = part == "q" or part == "k" or part == "v"
        names = [f"{attention}.{p}.{kind}" for p in (("q", "k", "v") if short else ("query", "key", "value"))]
        if all(n in tensors for n in names):
            fused[f"{attention}.qkv.{kind}"] = torch.cat([tensors[n] for n in names])
        else:
            fused[f"{attention}.{part[0]}_bias"] = tensor
    return fused


def _reshaped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    projection = "encoder.patch_embed.proj.weight"
    tensors[projection] = tensors[projection].flatten(1)  # a convolution with stride p is a matrix product
    if "encoder.cls_token" not in tensors:
        # LW-DETR was pre-trained with a class token; the file still has its position, but not the token.
        tensors["encoder.pos_embed"] = tensors["encoder.pos_embed"][:, 1:]
    return tensors
