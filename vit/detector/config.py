"""What a detector is: its config and the named presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vit.errors import UserError, nearest
from vit.model.config import SIZES, EncoderConfig
from vit.typed import build


@dataclass(frozen=True)
class DetectorConfig:
    """A plain ViT, a neck that makes maps from its tokens, and a decoder that turns queries into boxes (LW-DETR, Chen
    et al. 2024; RF-DETR, Robinson et al. 2025)."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    num_classes: int = 80
    taps: tuple[int, ...] = (12,)
    """The tokens after these numbers of blocks become feature maps."""
    tap_norm: bool = False
    """Apply the encoder's last norm to every tap."""
    windows: int = 1
    """Attention windows along each side; 1: every block attends to the whole image."""
    global_blocks: tuple[int, ...] = ()
    """With windows: the blocks, counted from 0, that still attend to the whole image."""
    scales: tuple[float, ...] = (1.0,)
    """Size of each feature map relative to the grid of patches, from large to small: 2, 1 or 0.5."""
    neck_norm: Literal["layernorm", "batchnorm"] = "layernorm"
    neck_eps: float = 1e-6
    neck_blocks: int = 3
    stem_map: bool = False
    """The neck also gets the convolutional stem's map at twice the grid of patches, for detail smaller than a patch
    (benchmarks/detection.md)."""
    neck_squeeze: bool = False
    """Halve the channels before doubling the size of a map (LW-DETR with wide encoders)."""
    width: int = 256
    layers: int = 3
    heads: int = 8
    sampling_heads: int = 16
    points: int = 2
    """Sampling points of each head in each map."""
    mlp: int = 2048
    queries: int = 300
    """Most boxes in an image."""
    groups: int = 13
    """Sets of queries that are trained side by side; evaluation uses one of them (Group DETR, Chen et al. 2023)."""
    denoise: bool = False
    """One more set of queries, in training only, that start from noised boxes of the objects."""
    dropout: float = 0.0

    def __post_init__(self):
        for name in ("taps", "global_blocks", "scales"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        depth = self.encoder.depth
        _check(self.num_classes >= 1, f"num_classes must be at least 1, got {self.num_classes}")
        _check(
            len(self.taps) > 0 and all(1 <= tap <= depth for tap in self.taps),
            f"taps {self.taps} are not within 1..{depth}, the encoder's blocks",
        )
        _check(max(self.taps, default=0) == depth, f"the last tap must be {depth}, or later blocks would not be used")
        _check(
            all(scale in (0.5, 1.0, 2.0) for scale in self.scales)
            and len(self.scales) > 0
            and list(self.scales) == sorted(set(self.scales), reverse=True),
            f"scales must be a selection of 2, 1 and 0.5 in this order, got {self.scales}",
        )
        _check(
            all(0 <= block < depth for block in self.global_blocks),
            f"global_blocks must be within 0..{depth - 1}, got {self.global_blocks}",
        )
        for heads in (self.heads, self.sampling_heads):
            _check(self.width % heads == 0, f"width {self.width} is not a multiple of {heads} heads")
        _check(self.width % 4 == 0, f"width {self.width} is not a multiple of 4")
        for name in ("windows", "layers", "points", "queries", "groups"):
            _check(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        if self.stem_map:
            ok = self.encoder.stem == "conv" and self.encoder.patch_size >= 4 and self.scales == (2.0,)
            _check(ok, "stem_map needs a convolutional stem, patches of 4 pixels or more and scales (2,)")
        if self.windows > 1:
            _check(not self.encoder.relative_positions, "relative positions do not work in windows: leave windows at 1")
        _check(not self.encoder.patch_dropout, "patch_dropout leaves holes in the maps and is for classifiers only")
        if self.tap_norm:
            _check(self.encoder.final_norm, "tap_norm needs the encoder's final_norm")

    @property
    def divisor(self) -> int:
        """The sides of an image must be multiples of this, in pixels."""
        halved = 2 if min(self.scales) < 1 else 1
        return self.encoder.patch_size * max(self.windows, halved)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DetectorConfig:
        """Raises UserError on an unknown field and on a value of another type."""
        encoder = build(EncoderConfig, values.get("encoder", {}), "model.encoder")
        return build(cls, {**values, "encoder": encoder}, "model")


def detector_changed(config: DetectorConfig, values: dict[str, Any]) -> DetectorConfig:
    """The config with other values. Raises UserError, with the nearest name, on an unknown field."""
    return build(DetectorConfig, {**vars(config), **values}, "DetectorConfig")


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(f"Detector config: {message}.")


def _nano() -> DetectorConfig:
    """For images of 128 to 256 pixels on a CPU: small objects need a convolutional stem and a map at stride 8."""
    encoder = EncoderConfig(
        *SIZES["nano"], patch_size=16, image_size=(128, 128), stem="conv", class_token=False, final_norm=False
    )
    return DetectorConfig(
        encoder, taps=(2, 4), scales=(2.0,), width=128, layers=2, heads=4, sampling_heads=8, points=4, mlp=512,
        queries=60, groups=1, neck_blocks=2, stem_map=True, denoise=True,
    )  # fmt: skip


def _rfdetr(side: int, layers: int) -> DetectorConfig:
    """RF-DETR: DINOv2 ViT-S in patches of 16, 2 x 2 windows, four taps, one map at stride 16."""
    encoder = EncoderConfig(*SIZES["s"], patch_size=16, image_size=(side, side), prefix_positions=1, layer_scale=1.0)
    return DetectorConfig(
        encoder, num_classes=91, taps=(3, 6, 9, 12), tap_norm=True, windows=2, global_blocks=(3, 6, 9), layers=layers
    )


def _lwdetr(
    vit_width: int, depth: int, global_blocks: tuple[int, ...], taps: tuple[int, ...], **rest: Any
) -> DetectorConfig:
    """LW-DETR: its own ViT with 12 heads in 4 x 4 windows; batch norm in the neck."""
    encoder = EncoderConfig(
        vit_width, depth, 12, 4 * vit_width, patch_size=16, image_size=(224, 224), class_token=False,
        position_resize="plain", qkv_bias="qv", layer_scale=0.1, final_norm=False,
    )  # fmt: skip
    return DetectorConfig(
        encoder, num_classes=91, taps=taps, windows=4, global_blocks=global_blocks, neck_norm="batchnorm",
        neck_eps=1e-5, neck_squeeze=vit_width > 512, **rest,
    )  # fmt: skip


_DEEP = (10, (2, 4, 5, 8), (3, 5, 6, 10))
_WIDE = {"scales": (2.0, 0.5), "width": 384, "heads": 12, "sampling_heads": 24, "points": 4}

PRESETS = {
    "detector_nano": _nano(),
    "rfdetr_nano": _rfdetr(384, 2),
    "rfdetr_small": _rfdetr(512, 3),
    "rfdetr_medium": _rfdetr(576, 4),
    "rfdetr_large": _rfdetr(704, 4),
    "lwdetr_tiny": _lwdetr(192, 6, (1, 3, 5), (2, 4, 6), queries=100),
    "lwdetr_small": _lwdetr(192, *_DEEP),
    "lwdetr_medium": _lwdetr(384, *_DEEP),
    "lwdetr_large": _lwdetr(384, *_DEEP, **_WIDE),
    "lwdetr_xlarge": _lwdetr(768, *_DEEP, **_WIDE),
}
"""The public detectors by name, and our own for small images on a CPU."""


def detector_preset(name: str) -> DetectorConfig:
    """Raises UserError, with the nearest name, on a name that is not in PRESETS."""
    if name not in PRESETS:
        raise UserError(f"No detector is called {name!r}.{nearest(name, PRESETS)} Detectors: {', '.join(PRESETS)}.")
    return PRESETS[name]
