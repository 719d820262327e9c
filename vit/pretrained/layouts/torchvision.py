"""torchvision's VisionTransformer."""

from __future__ import annotations

from vit.pretrained.layouts.rules import Layout

BLOCK = "encoder.layers.encoder_layer_#."
TORCHVISION = Layout(
    "torchvision",
    (
        ("encoder.cls_token", "class_token"),
        ("encoder.pos_embed", "encoder.pos_embedding"),
        ("encoder.patch_embed.proj.weight", "conv_proj.weight", "conv"),
        ("encoder.patch_embed.proj.bias", "conv_proj.bias"),
        ("encoder.blocks.#.norm1.*", BLOCK + "ln_1.*"),
        ("encoder.blocks.#.attn.qkv.weight", BLOCK + "self_attention.in_proj_weight"),
        ("encoder.blocks.#.attn.qkv.bias", BLOCK + "self_attention.in_proj_bias"),
        ("encoder.blocks.#.attn.proj.*", BLOCK + "self_attention.out_proj.*"),
        ("encoder.blocks.#.norm2.*", BLOCK + "ln_2.*"),
        ("encoder.blocks.#.mlp.fc1.*", BLOCK + "mlp.0.*"),
        ("encoder.blocks.#.mlp.fc1.*", BLOCK + "mlp.linear_1.*"),
        ("encoder.blocks.#.mlp.fc2.*", BLOCK + "mlp.3.*"),
        ("encoder.blocks.#.mlp.fc2.*", BLOCK + "mlp.linear_2.*"),
        ("encoder.norm.*", "encoder.ln.*"),
        ("head.*", "heads.head.*"),
    ),
    ("encoder.layers.encoder_layer_0.self_attention.in_proj_weight", "conv_proj.weight"),
    resize="aligned",
)
