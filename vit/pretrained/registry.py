"""The registry: every model by name, its size, where its weights are, and how to find one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from vit.config import SIZES, ClassifierConfig, EncoderConfig, Size, changed, preset
from vit.errors import UserError, nearest
from vit.image import Preprocess
from vit.pretrained.families import FAMILIES, NO_CLS
from vit.pretrained.rules import Layout


@dataclass(frozen=True)
class Model:
    """One row of the registry."""

    name: str
    family: str
    size: Size
    patch: int
    image_size: int
    timm: str | None = None
    """`timm:NAME` that holds its weights."""
    hf: str | None = None
    """`hf:OWNER/REPO`."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields of the encoder that differ from the family's."""
    pool_mlp: int | None = None

    @property
    def config(self) -> ClassifierConfig:
        family = FAMILIES[self.family]
        base = EncoderConfig(*self.size, patch_size=self.patch, image_size=(self.image_size, self.image_size))
        encoder = changed(base, {**family.encoder, **self.fields})
        if family.own_reference:
            encoder = replace(encoder, rope_reference=encoder.grid)
        return ClassifierConfig(encoder, num_classes=0, pool_mlp=self.pool_mlp, **family.classifier)

    @property
    def preprocess(self) -> Preprocess:
        family = FAMILIES[self.family]
        mean, std = family.statistics
        return Preprocess((self.image_size, self.image_size), "crop", family.crop, "bicubic", mean, std)  # pyright: ignore


S = SIZES
GIANT = Size(1536, 40, 24, 6144)
SWIGLU: dict[str, Any] = {"feed_forward": "swiglu"}


def _table() -> list[Model]:
    m = Model
    rows = [
        m("deit_ti16", "deit", S["ti"], 16, 224, "deit_tiny_patch16_224", "facebook/deit-tiny-patch16-224"),
        m("deit_s16", "deit", S["s"], 16, 224, "deit_small_patch16_224", "facebook/deit-small-patch16-224"),
        m("deit_b16", "deit", S["b"], 16, 224, "deit_base_patch16_224", "facebook/deit-base-patch16-224"),
        m("deit_ti16_distilled", "deitd", S["ti"], 16, 224, "deit_tiny_distilled_patch16_224",
          "facebook/deit-tiny-distilled-patch16-224"),
        m("deit_s16_distilled", "deitd", S["s"], 16, 224, "deit_small_distilled_patch16_224",
          "facebook/deit-small-distilled-patch16-224"),
        m("deit_b16_distilled", "deitd", S["b"], 16, 224, "deit_base_distilled_patch16_224",
          "facebook/deit-base-distilled-patch16-224"),
        m("deit3_s16", "deit3", S["s"], 16, 224, "deit3_small_patch16_224"),
        m("deit3_m16", "deit3", S["m"], 16, 224, "deit3_medium_patch16_224"),
        m("deit3_b16", "deit3", S["b"], 16, 224, "deit3_base_patch16_224"),
        m("deit3_l16", "deit3", S["l"], 16, 224, "deit3_large_patch16_224"),
        m("deit3_h14", "deit3", S["h"], 14, 224, "deit3_huge_patch14_224"),
        m("dino_s16", "dino", S["s"], 16, 224, "vit_small_patch16_224.dino", "facebook/dino-vits16"),
        m("dino_s8", "dino", S["s"], 8, 224, "vit_small_patch8_224.dino", "facebook/dino-vits8"),
        m("dino_b16", "dino", S["b"], 16, 224, "vit_base_patch16_224.dino", "facebook/dino-vitb16"),
        m("dino_b8", "dino", S["b"], 8, 224, "vit_base_patch8_224.dino", "facebook/dino-vitb8"),
        m("mae_b16", "mae", S["b"], 16, 224, "vit_base_patch16_224.mae", "facebook/vit-mae-base"),
        m("mae_l16", "mae", S["l"], 16, 224, "vit_large_patch16_224.mae", "facebook/vit-mae-large"),
        m("mae_h14", "mae", S["h"], 14, 224, "vit_huge_patch14_224.mae", "facebook/vit-mae-huge"),
        m("ijepa_h14", "ijepa", S["h"], 14, 224, None, "facebook/ijepa_vith14_1k"),
        m("dinov3_s16", "dinov3", S["s"], 16, 256, "vit_small_patch16_dinov3",
          "facebook/dinov3-vits16-pretrain-lvd1689m"),
        m("dinov3_s16plus", "dinov3", S["s"], 16, 256, "vit_small_plus_patch16_dinov3",
          "facebook/dinov3-vits16plus-pretrain-lvd1689m", SWIGLU),
        m("dinov3_b16", "dinov3", S["b"], 16, 256, "vit_base_patch16_dinov3",
          "facebook/dinov3-vitb16-pretrain-lvd1689m"),
        m("dinov3_l16", "dinov3", S["l"], 16, 256, "vit_large_patch16_dinov3",
          "facebook/dinov3-vitl16-pretrain-lvd1689m"),
        m("dinov3_h16plus", "dinov3", Size(1280, 32, 20, 5120), 16, 256, "vit_huge_plus_patch16_dinov3",
          "facebook/dinov3-vith16plus-pretrain-lvd1689m", SWIGLU),
        m("dinov3_7b16", "dinov3", Size(4096, 40, 32, 8192), 16, 256, "vit_7b_patch16_dinov3",
          "facebook/dinov3-vit7b16-pretrain-lvd1689m", SWIGLU),
        m("beit_b16", "beit", S["b"], 16, 224, "beit_base_patch16_224",
          "microsoft/beit-base-patch16-224-pt22k-ft22k"),
        m("beit_l16", "beit", S["l"], 16, 224, "beit_large_patch16_224",
          "microsoft/beit-large-patch16-224-pt22k-ft22k"),
        m("beitv2_b16", "beitv2", S["b"], 16, 224, "beitv2_base_patch16_224"),
        m("beitv2_l16", "beitv2", S["l"], 16, 224, "beitv2_large_patch16_224"),
        m("clip_b32", "clip", S["b"], 32, 224, "vit_base_patch32_clip_quickgelu_224.openai",
          "openai/clip-vit-base-patch32"),
        m("clip_b16", "clip", S["b"], 16, 224, "vit_base_patch16_clip_quickgelu_224.openai",
          "openai/clip-vit-base-patch16"),
        m("clip_l14", "clip", S["l"], 14, 224, "vit_large_patch14_clip_quickgelu_224.openai",
          "openai/clip-vit-large-patch14"),
        m("openclip_b32", "openclip", S["b"], 32, 224, "vit_base_patch32_clip_224.laion2b",
          "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        m("openclip_b16", "openclip", S["b"], 16, 224, "vit_base_patch16_clip_224.laion2b",
          "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"),
        m("openclip_l14", "openclip", S["l"], 14, 224, "vit_large_patch14_clip_224.laion2b",
          "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"),
        m("openclip_h14", "openclip", S["h"], 14, 224, "vit_huge_patch14_clip_224.laion2b",
          "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
        m("naflexvit_b16_gap", "naflexvit", S["b"], 16, 256, "naflexvit_base_patch16_gap", None, {"registers": 4}),
        m("naflexvit_b16_par_gap", "naflexvit_par", S["b"], 16, 256, "naflexvit_base_patch16_par_gap", None,
          {"registers": 4}),
        m("naflexvit_b16_map", "naflexvit_map", S["b"], 16, 256, "naflexvit_base_patch16_map", None,
          {"registers": 1}),
        m("siglip2_b16_naflex", "siglip2_naflex", S["b"], 16, 256, "naflexvit_base_patch16_siglip",
          "google/siglip2-base-patch16-naflex"),
        m("siglip2_so400m16_naflex", "siglip2_naflex", S["so400m"], 16, 256, "naflexvit_so400m_patch16_siglip",
          "google/siglip2-so400m-patch16-naflex"),
        m("eva02_ti14", "eva02", Size(192, 12, 3, 512), 14, 336, "eva02_tiny_patch14_336"),
        m("eva02_s14", "eva02", Size(384, 12, 6, 1024), 14, 336, "eva02_small_patch14_336"),
        m("eva02_b14", "eva02", Size(768, 12, 12, 2048), 14, 448, "eva02_base_patch14_448", None,
          {"feed_forward_norm": True}),
        m("eva02_l14", "eva02", Size(1024, 24, 16, 2730), 14, 448, "eva02_large_patch14_448", None,
          {"feed_forward_norm": True}),
        m("eva02_clip_b16", "eva02_clip", Size(768, 12, 12, 2048), 16, 224, "eva02_base_patch16_clip_224"),
        m("eva02_clip_l14", "eva02_clip", Size(1024, 24, 16, 2730), 14, 224, "eva02_large_patch14_clip_224"),
        m("pe_core_ti16", "pe_core", S["ti"], 16, 384, "vit_pe_core_tiny_patch16_384", "facebook/PE-Core-T16-384"),
        m("pe_core_s16", "pe_core", S["s"], 16, 384, "vit_pe_core_small_patch16_384", "facebook/PE-Core-S16-384"),
        m("pe_core_b16", "pe_core", S["b"], 16, 224, "vit_pe_core_base_patch16_224", "facebook/PE-Core-B16-224"),
        m("pe_core_l14", "pe_core", S["l"], 14, 336, "vit_pe_core_large_patch14_336", "facebook/PE-Core-L14-336"),
        m("pe_core_g14", "pe_core", Size(1536, 50, 16, 8960), 14, 448, "vit_pe_core_gigantic_patch14_448",
          "facebook/PE-Core-G14-448", {**NO_CLS, "prefix_positions": 0, "rope_offset": 0.0}, 6144),
        m("pe_spatial_b16", "pe_spatial", S["b"], 16, 512, "vit_pe_spatial_base_patch16_512",
          "facebook/PE-Spatial-B16-512"),
        m("aimv2_l14", "aimv2", Size(1024, 24, 8, 2816), 14, 224, "aimv2_large_patch14_224",
          "apple/aimv2-large-patch14-224"),
        m("aimv2_h14", "aimv2", Size(1536, 24, 12, 4096), 14, 224, "aimv2_huge_patch14_224",
          "apple/aimv2-huge-patch14-224"),
        m("aimv2_1b14", "aimv2", Size(2048, 24, 16, 5632), 14, 224, "aimv2_1b_patch14_224",
          "apple/aimv2-1B-patch14-224"),
        m("aimv2_3b14", "aimv2", Size(3072, 24, 24, 8192), 14, 224, "aimv2_3b_patch14_224",
          "apple/aimv2-3B-patch14-224"),
        m("flexivit_s16", "flexivit", S["s"], 16, 240, "flexivit_small"),
        m("flexivit_b16", "flexivit", S["b"], 16, 240, "flexivit_base"),
        m("flexivit_l16", "flexivit", S["l"], 16, 240, "flexivit_large"),
        m("tv_b16", "tv", S["b"], 16, 224), m("tv_b32", "tv", S["b"], 32, 224),
        m("tv_l16", "tv", S["l"], 16, 224), m("tv_l32", "tv", S["l"], 32, 224),
        m("tv_h14", "tv", S["h"], 14, 518),
        m("vit_ti16", "vit", S["ti"], 16, 224, "vit_tiny_patch16_224"),
        m("vit_s16", "vit", S["s"], 16, 224, "vit_small_patch16_224"),
        m("vit_s32", "vit", S["s"], 32, 224, "vit_small_patch32_224"),
        m("vit_b16", "vit", S["b"], 16, 224, "vit_base_patch16_224", "google/vit-base-patch16-224"),
        m("vit_b32", "vit", S["b"], 32, 224, "vit_base_patch32_224", "google/vit-base-patch32-224-in21k"),
        m("vit_b8", "vit", S["b"], 8, 224, "vit_base_patch8_224"),
        m("vit_l16", "vit", S["l"], 16, 224, "vit_large_patch16_224", "google/vit-large-patch16-224"),
        m("vit_h14", "vit", S["h"], 14, 224, None, "google/vit-huge-patch14-224-in21k"),
    ]  # fmt: skip
    for size, word in (("s", "small"), ("b", "base"), ("l", "large"), ("g", "giant")):
        shape = Size(1536, 40, 24, 4096) if size == "g" else S[size]
        fields = SWIGLU if size == "g" else {}
        plain, registers = f"vit_{word}_patch14_dinov2", f"vit_{word}_patch14_reg4_dinov2"
        repo = f"facebook/dinov2-{word}"
        rows.append(m(f"dinov2_{size}14", "dinov2", shape, 14, 518, plain, repo, fields))
        fields = {**fields, "registers": 4}
        repo = f"facebook/dinov2-with-registers-{word}"
        rows.append(m(f"dinov2_{size}14_reg4", "dinov2", shape, 14, 518, registers, repo, fields))
    for version, tag, owner in (("siglip", "webli", "google/siglip"), ("siglip2", "v2_webli", "google/siglip2")):
        for size, patch, side, word in (
            ("b", 16, 224, "base"),
            ("l", 16, 256, "large"),
            ("so400m", 14, 224, "so400m"),
        ):
            timm = f"vit_{word}_patch{patch}_siglip_{side}.{tag}"
            rows.append(
                m(
                    f"{version}_{size}{patch}",
                    version,
                    S[size],
                    patch,
                    side,
                    timm,
                    f"{owner}-{word}-patch{patch}-{side}",
                )
            )
    rows.append(
        m("siglip2_b32", "siglip2", S["b"], 32, 256, "vit_base_patch32_siglip_256.v2_webli",
          "google/siglip2-base-patch32-256")
    )  # fmt: skip
    for family in ("rope", "rope_mixed", "rope_ape"):
        for size, word in (("s", "small"), ("b", "base"), ("l", "large")):
            rows.append(m(f"{family}_{size}16", family, S[size], 16, 224, f"vit_{word}_patch16_{family}_224"))
    return sorted(rows, key=lambda row: (row.family, row.size.width, row.name))


MODELS = {row.name: row for row in _table()}
TIMM_TANH = ("siglip2_b32",)
"""SigLIP names for which timm, too, takes the tanh approximation of GELU."""


def find(name: str) -> Model:
    """The registry's row, or one for any `vit_SIZE+PATCH` of `vit.config.preset`. Raises UserError with the nearest."""
    if name in MODELS:
        return MODELS[name]
    if re.fullmatch(r"vit_[a-z0-9]+?\d+(_(conv|rope|mean))*", name):
        e = preset(name).encoder
        size = Size(e.width, e.depth, e.heads, e.mlp)
        known = ("stem", "positions", "rope", "class_token")
        fields = {key: getattr(e, key) for key in known}
        fields["prefix_positions"] = min(e.prefix, e.positions == "learned")
        return Model(name, "vit", size, e.patch_size, e.image_size[0], fields=fields)
    raise UserError(
        f"no model is called {name!r}.{nearest(name, MODELS)} `vitral models` lists all; vit_SIZE+PATCH with SIZE "
        f"one of {', '.join(SIZES)} makes a plain ViT."
    )


def in_layout(model: Model, layout: Layout) -> ClassifierConfig:
    """The model's config as the code base means it that this layout belongs to."""
    config, other = model.config, FAMILIES[model.family].in_timm
    if not layout.name.startswith("timm") or model.name in TIMM_TANH:
        return config
    top = {key: value for key, value in other.items() if key in ("pool",)}
    rest = {key: value for key, value in other.items() if key not in top}
    return replace(config, encoder=replace(config.encoder, **rest), **top)


def by_source(source: str) -> Model | None:
    """The row whose weights `timm:NAME` or `hf:OWNER/REPO` are."""
    kind, _, name = source.partition(":")
    for row in MODELS.values():
        listed = row.timm if kind == "timm" else row.hf
        if listed and (name == listed or (kind == "timm" and name.split(".")[0] == listed)):
            return row
    return None
