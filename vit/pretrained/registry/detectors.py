"""The public detectors: where their weights are, and which one a file holds."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from typing import NamedTuple

from torch import Tensor

from vit.detector.config import PRESETS, DetectorConfig
from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.pretrained.files.fetch import open_weights
from vit.pretrained.layouts.detectors import convert
from vit.pretrained.registry.families import IMAGENET
from vit.pretrained.resize_detector import number_of

LICENSE = "Apache-2.0"


class Public(NamedTuple):
    side: int
    """Side of the square training images, in pixels."""
    repository: str
    """`hf:OWNER/REPO`"""

    @property
    def preprocess(self) -> Preprocess:
        mean, std = IMAGENET
        return Preprocess((self.side, self.side), "squash", 1.0, "bilinear", mean, std)


PUBLIC = {
    "rfdetr_nano": Public(384, "hf:Roboflow/rf-detr-nano"),
    "rfdetr_small": Public(512, "hf:Roboflow/rf-detr-small"),
    "rfdetr_medium": Public(576, "hf:Roboflow/rf-detr-medium"),
    "rfdetr_large": Public(704, "hf:Roboflow/rf-detr-large"),
    "lwdetr_tiny": Public(640, "hf:AnnaZhang/lwdetr_tiny_60e_coco"),
    "lwdetr_small": Public(640, "hf:AnnaZhang/lwdetr_small_60e_coco"),
    "lwdetr_medium": Public(640, "hf:AnnaZhang/lwdetr_medium_60e_coco"),
    "lwdetr_large": Public(640, "hf:AnnaZhang/lwdetr_large_60e_coco"),
    "lwdetr_xlarge": Public(640, "hf:AnnaZhang/lwdetr_xlarge_60e_coco"),
}


class Found(NamedTuple):
    name: str
    config: DetectorConfig
    tensors: dict[str, Tensor]
    """Under the names of `vit.detector.Detector`."""
    preprocess: Preprocess


class Geometry(NamedTuple):
    """The sizes in a file that tell the public detectors apart."""

    encoder_width: int
    encoder_blocks: int
    patch: int
    width: int
    decoder_layers: int
    scales: int


def read_detector(name: str | None, source: str, *, trust_pickle: bool = False) -> Found:
    """Read a public detector's file, folder or repository. name: of PRESETS; None means whichever it is.

    Raises UserError if it is another detector, whose name it gives, or an unknown one, whose sizes it gives.
    """
    opened = open_weights(source, trust_pickle=trust_pickle)
    tensors = convert({key: opened.get(key) for key in opened.shapes}, opened.name)
    tensors = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    found, positions = geometry(tensors), tensors["encoder.pos_embed"].shape[1]
    fitting = [other for other in PUBLIC if _geometry_of(PRESETS[other]) == found]
    if not fitting:
        text = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found._asdict().items())
        raise UserError(f"{opened.name} is none of the detectors {', '.join(PUBLIC)}: it has {text}.")
    if name is None:
        # The two largest of RF-DETR differ only in their native size.
        native = [other for other in fitting if _positions(PRESETS[other]) == positions]
        name = (native or fitting)[0]
    if name not in fitting:
        raise UserError(f"{opened.name} holds {' or '.join(fitting)}, not {name}. Use that name.")
    preset, groups = PRESETS[name], number_of("selection", tensors)
    side = isqrt(positions - preset.encoder.prefix_positions)
    if side**2 != positions - preset.encoder.prefix_positions:
        raise UserError(f"{opened.name}: {positions} positions do not form a square grid.")
    size = (side * preset.encoder.patch_size, side * preset.encoder.patch_size)
    config = replace(
        preset,
        encoder=replace(preset.encoder, image_size=size),
        num_classes=len(tensors["class_head.bias"]),
        queries=len(tensors["query"]) // groups,
        groups=groups,
    )
    return Found(name, config, tensors, PUBLIC[name].preprocess)


def geometry(tensors: dict[str, Tensor]) -> Geometry:
    width, kernel = tensors["encoder.patch_embed.proj.weight"].shape
    return Geometry(
        width,
        number_of("encoder.blocks", tensors),
        isqrt(kernel // 3),
        tensors["query"].shape[1],
        number_of("decoder.layers", tensors),
        number_of("neck.scales", tensors),
    )


def _geometry_of(c: DetectorConfig) -> Geometry:
    return Geometry(c.encoder.width, c.encoder.depth, c.encoder.patch_size, c.width, c.layers, len(c.scales))


def _positions(c: DetectorConfig) -> int:
    return c.encoder.prefix_positions + c.encoder.grid[0] * c.encoder.grid[1]
