"""The rows of the registry."""

from __future__ import annotations

from typing import Any

from vit.model.config import SIZES, Size
from vit.pretrained.registry.families import HALF, NO_CLS
from vit.pretrained.registry.model import Model

S = SIZES
SWIGLU: dict[str, Any] = {"feed_forward": "swiglu"}
PE_GIANT: dict[str, Any] = {**NO_CLS, "prefix_positions": 0, "rope_offset": 0.0}


def rows() -> list[Model]:
    m = Model
    table = [
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
        m("ijepa_h16", "ijepa", S["h"], 16, 448, None, "facebook/ijepa_vith16_1k"),
        m("ijepa_g16", "ijepa", S["g"], 16, 224, None, "facebook/ijepa_vitg16_22k"),
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
        m("beitv2_l16", "beitv2", S["l"], 16, 224, "beitv2_large_patch16_224", images={"crop": 0.95}),
        m("clip_b32", "clip", S["b"], 32, 224, "vit_base_patch32_clip_quickgelu_224.openai",
          "openai/clip-vit-base-patch32"),
        m("clip_b16", "clip", S["b"], 16, 224, "vit_base_patch16_clip_quickgelu_224.openai",
          "openai/clip-vit-base-patch16"),
        m("clip_l14", "clip", S["l"], 14, 224, "vit_large_patch14_clip_quickgelu_224.openai",
          "openai/clip-vit-large-patch14", images={"crop": 1.0}),
        m("openclip_b32", "openclip", S["b"], 32, 224, "vit_base_patch32_clip_224.laion2b",
          "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", images={"crop": 0.9}),
        m("openclip_b16", "openclip", S["b"], 16, 224, "vit_base_patch16_clip_224.laion2b",
          "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"),
        m("openclip_l14", "openclip", S["l"], 14, 224, "vit_large_patch14_clip_224.laion2b",
          "laion/CLIP-ViT-L-14-laion2B-s32B-b82K", images=dict(zip(("mean", "std"), HALF, strict=True))),
        m("openclip_h14", "openclip", S["h"], 14, 224, "vit_huge_patch14_clip_224.laion2b",
          "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
        m("openclip_g14", "openclip", S["g"], 14, 224, "vit_giant_patch14_clip_224.laion2b",
          "laion/CLIP-ViT-g-14-laion2B-s12B-b42K"),
        m("openclip_bigg14", "openclip", Size(1664, 48, 16, 8192), 14, 224, "vit_gigantic_patch14_clip_224.laion2b",
          "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"),
        m("naflexvit_b16_gap", "naflexvit", S["b"], 16, 256, "naflexvit_base_patch16_gap", None, {"registers": 4}),
        m("naflexvit_b16_par_gap", "naflexvit_par", S["b"], 16, 256, "naflexvit_base_patch16_par_gap", None,
          {"registers": 4}),
        m("naflexvit_b16_map", "naflexvit_map", S["b"], 16, 256, "naflexvit_base_patch16_map", None,
          {"registers": 1}, untrained=True),
        m("siglip2_b16_naflex", "siglip2_naflex", S["b"], 16, 256, "naflexvit_base_patch16_siglip",
          "google/siglip2-base-patch16-naflex"),
        m("siglip2_so400m16_naflex", "siglip2_naflex", S["so400m"], 16, 256, "naflexvit_so400m_patch16_siglip",
          "google/siglip2-so400m-patch16-naflex"),
        m("eva02_ti14", "eva02", Size(192, 12, 3, 512), 14, 336, "eva02_tiny_patch14_336"),
        m("eva02_s14", "eva02", Size(384, 12, 6, 1024), 14, 336, "eva02_small_patch14_336"),
        m("eva02_b14", "eva02", Size(768, 12, 12, 2048), 14, 448, "eva02_base_patch14_448", None,
          {"feed_forward_norm": True}, images={"resize": "squash"}),
        m("eva02_l14", "eva02", Size(1024, 24, 16, 2730), 14, 448, "eva02_large_patch14_448", None,
          {"feed_forward_norm": True}, images={"resize": "squash"}),
        m("eva02_clip_b16", "eva02_clip", Size(768, 12, 12, 2048), 16, 224, "eva02_base_patch16_clip_224"),
        m("eva02_clip_l14", "eva02_clip", Size(1024, 24, 16, 2730), 14, 224, "eva02_large_patch14_clip_224"),
        m("pe_core_ti16", "pe_core", S["ti"], 16, 384, "vit_pe_core_tiny_patch16_384", "facebook/PE-Core-T16-384"),
        m("pe_core_s16", "pe_core", S["s"], 16, 384, "vit_pe_core_small_patch16_384", "facebook/PE-Core-S16-384"),
        m("pe_core_b16", "pe_core", S["b"], 16, 224, "vit_pe_core_base_patch16_224", "facebook/PE-Core-B16-224"),
        m("pe_core_l14", "pe_core", S["l"], 14, 336, "vit_pe_core_large_patch14_336", "facebook/PE-Core-L14-336"),
        m("pe_core_g14", "pe_core", Size(1536, 50, 16, 8960), 14, 448, "vit_pe_core_gigantic_patch14_448",
          "facebook/PE-Core-G14-448", PE_GIANT, {"pool_mlp": 6144}),
        m("pe_spatial_ti16", "pe_spatial", S["ti"], 16, 512, "vit_pe_spatial_tiny_patch16_512",
          "facebook/PE-Spatial-T16-512"),
        m("pe_spatial_s16", "pe_spatial", S["s"], 16, 512, "vit_pe_spatial_small_patch16_512",
          "facebook/PE-Spatial-S16-512"),
        m("pe_spatial_b16", "pe_spatial", S["b"], 16, 512, "vit_pe_spatial_base_patch16_512",
          "facebook/PE-Spatial-B16-512"),
        m("pe_spatial_l14", "pe_spatial", S["l"], 14, 448, "vit_pe_spatial_large_patch14_448",
          "facebook/PE-Spatial-L14-448"),
        m("pe_spatial_g14", "pe_spatial", Size(1536, 50, 16, 8960), 14, 448, "vit_pe_spatial_gigantic_patch14_448",
          "facebook/PE-Spatial-G14-448", {**PE_GIANT, "layer_scale": 0.1}),
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
        m("tv_h14", "tv", S["h"], 14, 518, images={"crop": 1.0}, weights_license="CC-BY-NC-4.0"),
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
        table.append(m(f"dinov2_{size}14", "dinov2", shape, 14, 518, plain, repo, fields))
        fields = {**fields, "registers": 4}
        repo = f"facebook/dinov2-with-registers-{word}"
        table.append(m(f"dinov2_{size}14_reg4", "dinov2", shape, 14, 518, registers, repo, fields))
    for version, tag, owner in (("siglip", "webli", "google/siglip"), ("siglip2", "v2_webli", "google/siglip2")):
        for size, patch, side, word in (
            ("b", 16, 224, "base"),
            ("l", 16, 256, "large"),
            ("so400m", 14, 224, "so400m"),
        ):
            timm = f"vit_{word}_patch{patch}_siglip_{side}.{tag}"
            table.append(
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
    table.append(
        m("siglip2_b32", "siglip2", S["b"], 32, 256, "vit_base_patch32_siglip_256.v2_webli",
          "google/siglip2-base-patch32-256")
    )  # fmt: skip
    table += [
        m("siglip2_so400m16", "siglip2", S["so400m"], 16, 256, "vit_so400m_patch16_siglip_256.v2_webli",
          "google/siglip2-so400m-patch16-256"),
        m("siglip2_g16", "siglip2", Size(1536, 40, 16, 6144), 16, 256, "vit_giantopt_patch16_siglip_256.v2_webli",
          "google/siglip2-giant-opt-patch16-256"),
        m("siglip2_l16_512", "siglip2", S["l"], 16, 512, "vit_large_patch16_siglip_512.v2_webli",
          "google/siglip2-large-patch16-512"),
    ]  # fmt: skip
    for family in ("rope", "rope_mixed", "rope_ape", "rope_mixed_ape"):
        for size, word in (("s", "small"), ("b", "base"), ("l", "large")):
            table.append(m(f"{family}_{size}16", family, S[size], 16, 224, f"vit_{word}_patch16_{family}_224"))
    return sorted(table, key=lambda row: (row.family, row.size.width, row.name))
