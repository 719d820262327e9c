"""What a model is: frozen dataclasses, one table of sizes, named presets.

Every default of a model is defined here; a checkpoint's `config.json` holds these fields.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from vit.errors import UserError, nearest
from vit.typed import build

Norm = Literal["layernorm", "rmsnorm"]
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"]
Resize = Literal["antialias", "plain", "offset", "bilinear", "plain_bilinear", "aligned", "zoom", "aspect"]


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise UserError(f"Model config: {message}.")


class Size(NamedTuple):
    width: int
    depth: int
    heads: int
    mlp: int
    """Hidden width of the feed-forward layers."""


# ti, s, b, l, h: Touvron et al. 2021, Dosovitskiy et al. 2021; so400m: Alabdulmohsin et al. 2023; g: Zhai et al. 2022.
SIZES = {
    "nano": Size(128, 4, 4, 512),
    "ti": Size(192, 12, 3, 768),
    "s": Size(384, 12, 6, 1536),
    "m": Size(512, 12, 8, 2048),
    "b": Size(768, 12, 12, 3072),
    "l": Size(1024, 24, 16, 4096),
    "so400m": Size(1152, 27, 16, 4304),
    "h": Size(1280, 32, 16, 5120),
    "g": Size(1408, 40, 16, 6144),
}


@dataclass(frozen=True)
class EncoderConfig:
    """One plain ViT encoder: images [B, C, H, W] -> tokens of width D."""

    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp: int = 1536
    patch_size: int = 16
    image_size: tuple[int, int] = (224, 224)
    """(H, W) in pixels of the learned positions, which are resized at run time for images of other sizes."""
    in_chans: int = 3
    stem: Literal["linear", "conv"] = "linear"
    patch_bias: bool = True
    patch_norm: bool = False
    """A norm on the patch embeddings, before positions (AIMv2)."""
    positions: Literal["learned", "sincos", "none"] = "learned"
    prefix_positions: int = 0
    """How many of the first prefix tokens have a learned position, too (the class token of most public ViTs)."""
    position_resize: Resize = "antialias"
    """How learned positions are resized to another grid (see vit.model.position); it belongs to a checkpoint."""
    kernel_resize: Literal["bicubic", "bilinear"] = "bicubic"
    """How the patch kernel is resized to another patch size: as timm does, or as big_vision does for FlexiViT."""
    relative_positions: bool = False
    """A learned bias for every offset and head, in every block (BEiT)."""
    rope: bool = False
    rope_base: float = 100.0
    rope_places: Literal["centered", "grid"] = "centered"
    """Coordinates of the patches: -1..1 along each side (DINOv3), or row and column numbers."""
    rope_offset: float = 0.0
    """Added to row and column numbers."""
    rope_axes: Literal["yx", "xy"] = "yx"
    """Whether the row or the column comes first in the channels."""
    rope_reference: tuple[int, int] | None = None
    """Row and column numbers are scaled to this grid, whatever the image's (EVA02)."""
    rope_mixed: bool = False
    """Learned frequencies over row and column for each block and head (Heo et al. 2024)."""
    rope_bf16: bool = False
    """Periods rounded to bfloat16, as DINOv3's original files hold them."""
    class_token: bool = True
    distill_token: bool = False
    registers: int = 0
    pre_norm: bool = False
    """A norm between the embedding and the blocks (CLIP)."""
    feed_forward: Literal["mlp", "swiglu"] = "mlp"
    feed_forward_norm: bool = False
    """A norm before the last feed-forward layer (EVA02's ffn_ln)."""
    activation: Activation = "gelu"
    norm: Norm = "layernorm"
    eps: float = 1e-6
    bias: bool = True
    """Biases of the attention's last layer and of the feed-forward layers."""
    qkv_bias: bool | Literal["qv"] = True
    """"qv": queries and values have a bias, keys have none (BEiT, EVA02, DINOv3)."""
    qk_norm: bool = False
    attention_norm: bool = False
    """A norm before the attention's last layer (EVA02's inner_attn_ln)."""
    layer_scale: float | None = None
    """Initial value of LayerScale (Touvron et al. 2021, CaiT); None leaves it out."""
    final_norm: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    """Rate of the last block; the rates grow linearly from 0 with depth."""
    skip_dropped: bool = False
    """Do not compute what drop_path drops: the same samples are dropped, but sums are in another order."""
    patch_dropout: float = 0.0
    """Share of the patches that is dropped at random in training, before the first block (Liu et al. 2023)."""

    def __post_init__(self):
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if self.rope_reference is not None:
            object.__setattr__(self, "rope_reference", tuple(self.rope_reference))
        for name in ("width", "depth", "heads", "mlp", "patch_size", "in_chans"):
            _check(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        _check(self.width % self.heads == 0, f"width {self.width} is not a multiple of heads {self.heads}")
        for side in self.image_size:
            nearest = "x".join(str(max(1, round(n / self.patch_size)) * self.patch_size) for n in self.image_size)
            _check(
                side > 0 and side % self.patch_size == 0,
                f"image size {self.image_size[0]}x{self.image_size[1]} is not a multiple of the patch "
                f"size {self.patch_size}; {nearest} is the nearest",
            )
        for name in ("dropout", "attention_dropout", "drop_path", "patch_dropout"):
            _check(0 <= getattr(self, name) < 1, f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.stem == "conv":
            p = self.patch_size
            _check(p >= 2 and p & (p - 1) == 0, f"a convolutional stem needs a power of two as patch, got {p}")
        if self.positions == "sincos" or self.rope:
            _check(
                self.width % (4 * (self.heads if self.rope else 1)) == 0,
                "2-D positions need a width (with RoPE, a width of each head) that is a multiple of 4",
            )
        _check(
            0 <= self.prefix_positions <= self.prefix,
            f"prefix_positions is {self.prefix_positions}, but there are {self.prefix} prefix tokens",
        )
        if self.distill_token:
            _check(self.class_token, "a distillation token needs a class token before it")
        if self.relative_positions:
            _check(
                self.prefix == 1 and self.class_token,
                "relative positions need exactly one prefix token, the class token",
            )

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w): patches along each side at the native size."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def prefix(self) -> int:
        """Tokens before the patches: class token, distillation token, registers."""
        return int(self.class_token) + int(self.distill_token) + self.registers


@dataclass(frozen=True)
class ClassifierConfig:
    """An encoder, the pooling of its tokens, and a linear head."""

    encoder: EncoderConfig = EncoderConfig()
    num_classes: int = 1000
    pool: Literal["class", "mean", "attention", "class_mean", "class_distill"] = "class"
    """class_mean: class token and mean of the patches, concatenated (DINOv2's linear heads);
    class_distill: class and distillation token, each with its own head, and the logits averaged (DeiT)."""
    pool_norm: bool = False
    """A norm after pooling (timm's `fc_norm`)."""
    pool_heads: int | None = None
    """Heads of the attention pooling; the encoder's if None."""
    pool_mlp: int | None = None
    """Hidden width of the attention pooling's feed-forward layers; the encoder's if None."""
    pool_prefix: bool = True
    """The attention pooling attends to the prefix tokens, too."""
    head_bias: bool = True
    head_dropout: float = 0.0

    def __post_init__(self):
        _check(self.num_classes >= 0, f"num_classes must not be negative, got {self.num_classes}")
        if self.pool in ("class", "class_mean", "class_distill"):
            _check(self.encoder.class_token, "pooling by class token needs class_token=True")
        if self.pool == "class_distill":
            _check(self.encoder.distill_token, "pool=class_distill needs distill_token=True")
        if self.pool_norm:
            _check(self.pool in ("class", "mean", "attention"), f"pool_norm does not go with pool={self.pool}")

    @property
    def features(self) -> int:
        """Width of the pooled features."""
        return self.encoder.width * (2 if self.pool in ("class_mean", "class_distill") else 1)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClassifierConfig:
        """Raises UserError on an unknown field and on a value of another type."""
        encoder = build(EncoderConfig, values.get("encoder", {}), "model.encoder")
        return build(cls, {**values, "encoder": encoder}, "model")


def preset(name: str) -> ClassifierConfig:
    """`vit_SIZE+PATCH[_conv][_rope]` -> its config, for example `vit_s16`, `vit_nano4_conv`.

    `_conv` means a convolutional stem, `_rope` rotary instead of learned positions, `_mean` mean pooling without a
    class token. Raises UserError, naming the nearest size, on any other name.
    """
    match = re.fullmatch(r"vit_([a-z]+|so400m)(\d+)((?:_(?:conv|rope|mean))*)", name)
    if not match or match[1] not in SIZES:
        names = [f"vit_{size}16" for size in SIZES]
        raise UserError(
            f"No model is called {name!r}.{nearest(name, names)} Names are vit_SIZE+PATCH with SIZE one of "
            f"{', '.join(SIZES)} and optional _conv, _rope, _mean: vit_s16, vit_nano4_conv."
        )
    size, patch, flags = SIZES[match[1]], int(match[2]), match[3].split("_")
    _check(1 <= patch <= 224, f"{name}: the patch size must be in 1..224 pixels, got {patch}")
    mean = "mean" in flags
    encoder = EncoderConfig(
        *size,
        patch_size=patch,
        image_size=(224 // patch * patch, 224 // patch * patch),
        stem="conv" if "conv" in flags else "linear",
        positions="none" if "rope" in flags else "learned",
        rope="rope" in flags,
        class_token=not mean,
    )
    return ClassifierConfig(encoder, pool="mean" if mean else "class")


def changed(config: EncoderConfig, values: dict[str, Any]) -> EncoderConfig:
    """The config with other values. Raises UserError, with the nearest name, on an unknown field."""
    return build(EncoderConfig, {**asdict(config), **values}, "EncoderConfig")
