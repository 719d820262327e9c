"""The config of a model from the keys and shapes of its file; heads, activation, eps and RoPE are the family's."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from vit.errors import UserError
from vit.model.config import ClassifierConfig, EncoderConfig
from vit.pretrained.files.source import Source
from vit.pretrained.layouts.rules import Layout, Recognized

Shape = tuple[int, ...]


class _Shapes:
    """The shapes that our tensors will have when a file is read. No data is touched."""

    def __init__(self, file: Recognized, config: ClassifierConfig):
        self.file, self.config = file, config
        self._rows: dict[str, tuple[int, list[str]]] = {}
        for mine, theirs, _ in file.layout.pairs(1):
            if file.inside.issuperset(theirs):
                for name in mine:
                    self._rows.setdefault(name, (len(mine), theirs))

    def __call__(self, name: str) -> Shape | None:
        """The shape of our tensor `name`; None if the file has nothing for it."""
        if name not in self._rows:
            return None
        number, theirs = self._rows[name]
        layout, config = self.file.layout, self.config
        parts = [layout.theirs(n, torch.empty(self.file.shape(n), device="meta"), config, False) for n in theirs]
        joined = torch.cat(parts) if len(parts) > 1 else parts[0]
        share = joined.chunk(number)[0] if number > 1 else joined
        return tuple(layout.ours(name, share, config, False).shape)

    def has(self, name: str) -> bool:
        return self(name) is not None


def config_of_file(
    file: Recognized,
    config: ClassifierConfig,
    card_size: tuple[int, int] | None = None,
    requested_size: tuple[int, int] | None = None,
) -> ClassifierConfig:
    """The config of the model in a file, from the family's `config`. Raises UserError when the sizes differ.

    card_size, requested_size: (H, W) in pixels that the positions are for, from the file's card and from the caller.
    The number of positions alone fixes square grids only.
    """
    shape, source = _Shapes(file, config), file.source
    kernel = _patch_kernel(file, config, shape)
    family = config.encoder
    patch, chans = _patch(kernel, family.patch_size)
    size = card_size or tuple(side // family.patch_size * patch for side in family.image_size)
    encoder = replace(
        _parts(shape, file.layout, family), patch_size=patch, in_chans=chans, image_size=_pixels(size, patch)
    )
    pool_norm = shape.has("pool_norm.weight")
    _same_family(encoder, family, pool_norm, config.pool_norm, source)
    encoder = _with_grid(encoder, shape, requested_size, source)
    head = shape("head.weight") or shape("head.cls.weight")
    pool = config.pool
    # Without attention pooling a tower pools the mean, and so do models with a norm after pooling instead of before.
    if (pool == "attention" and not shape.has("attn_pool.probe")) or (pool == "class" and pool_norm):
        pool = "mean"
    found = replace(
        config,
        encoder=encoder,
        pool=pool,
        pool_norm=pool_norm,
        num_classes=head[0] if head else 0,
        head_bias=bool(shape("head.bias") or shape("head.cls.bias")) if head else True,
    )
    return file.layout.adapt(found, file.inside)


def _parts(shape: _Shapes, layout: Layout, family: EncoderConfig) -> EncoderConfig:
    """The family's encoder with the parts that the file has tensors for."""
    block = "encoder.blocks.0."
    registers, learned = shape("encoder.reg_token"), shape.has("encoder.pos_embed")
    return replace(
        family,
        patch_bias=shape.has("encoder.patch_embed.proj.bias"),
        patch_norm=shape.has("encoder.patch_norm.weight"),
        class_token=shape.has("encoder.cls_token"),
        distill_token=shape.has("encoder.dist_token"),
        registers=registers[-2] if registers else 0,
        positions="learned" if learned else "none" if family.positions == "learned" else family.positions,
        prefix_positions=0,
        position_resize=layout.resize or family.position_resize,
        relative_positions=shape.has("encoder.relative.0.table"),
        pre_norm=shape.has("encoder.norm_pre.weight"),
        feed_forward_norm=shape.has(block + "mlp.norm.weight"),
        attention_norm=shape.has(block + "attn.inner_norm.weight"),
        qk_norm=shape.has(block + "attn.q_norm.weight"),
        bias=shape.has(block + "attn.proj.bias"),
        qkv_bias=True if shape(block + "attn.qkv.bias") else "qv" if shape(block + "attn.q_bias") else False,
        layer_scale=(family.layer_scale or 1e-5) if shape.has(block + "ls1.gamma") else None,
        final_norm=shape.has("encoder.norm.weight"),
    )


def _with_grid(
    encoder: EncoderConfig, shape: _Shapes, requested_size: tuple[int, int] | None, source: Source
) -> EncoderConfig:
    """With the image size that the number of learned or relative positions stands for."""
    patch = encoder.patch_size
    requested = None if requested_size is None else (requested_size[0] // patch, requested_size[1] // patch)
    if position := shape("encoder.pos_embed"):
        size, placed = _grid(position[-2], encoder.grid, requested, encoder.prefix, source)
        return replace(encoder, image_size=(size[0] * patch, size[1] * patch), prefix_positions=placed)
    if table := shape("encoder.relative.0.table"):
        h, w = _relative_grid(table[0] - 3, encoder.grid, requested, source)
        return replace(encoder, image_size=(h * patch, w * patch))
    return encoder


PARTS = {
    "positions": "positions",
    "relative_positions": "relative positions",
    "class_token": "class token",
    "distill_token": "distillation token",
    "patch_norm": "norm on the patches",
    "pre_norm": "norm before the blocks",
    "attention_norm": "norm inside its attention",
    "feed_forward_norm": "norm inside its feed-forward layers",
    "layer_scale": "LayerScale",
}


def _same_family(
    found: EncoderConfig, family: EncoderConfig, pool_norm: bool, family_pool_norm: bool, source: Source
) -> None:
    """Raises UserError if parts of the family's models are missing or added, which changes what is computed."""
    has, should = ({key: getattr(e, key) not in ("none", None, False) for key in PARTS} for e in (found, family))
    has["norm"] = found.final_norm or pool_norm
    should["norm"] = family.final_norm or family_pool_norm
    lost = [PARTS.get(key, "last norm") for key in has if should[key] and not has[key]]
    # A distillation token without a head is no difference: only the other tokens attend to it.
    more = [PARTS[key] for key in PARTS if has[key] and not should[key] and key != "distill_token"]
    differences = [f"{what} {', '.join(parts)}" for what, parts in (("has no", lost), ("has a", more)) if parts]
    if differences:
        raise UserError(
            f"{source.name} {' and '.join(differences)}, unlike this family of models. Is it another family's file?"
        )


def _patch_kernel(file: Recognized, config: ClassifierConfig, shape: _Shapes) -> Shape:
    """The shape of the patch kernel. Raises UserError when the file holds another size of model, or none."""
    layout, name, e = file.layout, file.source.name, config.encoder
    mlp = e.feed_forward == "mlp"
    hidden = shape("encoder.blocks.0.mlp." + ("fc1.weight" if mlp else "w3.weight"))
    kernel = shape("encoder.patch_embed.proj.weight")
    if kernel is None or hidden is None:
        what = "patch embedding" if kernel is None else f"{e.feed_forward} layers"
        raise UserError(f"{name} ({layout.name}) has no {what} for this model.")
    found = (kernel[0], _depth(layout, file.inside), hidden[0] if mlp else hidden[1])
    expected = (e.width, e.depth, e.mlp)
    if found != expected:
        raise UserError(
            f"{name} holds a model of another size: width {found[0]}, {found[1]} blocks, hidden width {found[2]}; the "
            f"requested name means width {expected[0]}, {expected[1]} blocks, hidden width {expected[2]}."
        )
    return kernel


def _depth(layout: Layout, inside: set[str]) -> int:
    depth = 0
    pairs = [(ours, theirs) for ours, theirs, *_ in layout.rows if ours.startswith("encoder.blocks.#.norm1")]
    while any(theirs.replace("#", str(depth)).replace(".*", ".weight") in inside for _, theirs in pairs):
        depth += 1
    return depth


def _pixels(size: tuple[int, ...], patch: int) -> tuple[int, int]:
    """(H, W) rounded down to whole patches: Hugging Face's SigLIP of 384 pixels has 27 patches of 14."""
    height, width = size
    return height // patch * patch, width // patch * patch


def _patch(kernel: Shape, patch: int) -> tuple[int, int]:
    """(patch size, channels) of a kernel [D, C, p, p], or [D, C*p*p] if it is linear."""
    if len(kernel) == 4:
        return kernel[2], kernel[1]
    return patch, kernel[1] // patch**2


def _grid(
    n: int, native: tuple[int, int], other: tuple[int, int] | None, prefix: int, source: Source
) -> tuple[tuple[int, int], int]:
    """(grid, positions of prefix tokens) of n positions: the family's own grid, else a square, else `other`."""
    for placed in range(prefix + 1):
        if n - placed == native[0] * native[1]:
            return native, placed
    for placed in range(prefix + 1):
        side = math.isqrt(n - placed)
        if side * side == n - placed:
            return (side, side), placed
    for placed in range(prefix + 1):
        if other is not None and n - placed == other[0] * other[1]:
            return other, placed
    raise UserError(
        f"{source.name}: {n} positions are neither a square grid nor the native {native[0]}x{native[1]}, with or "
        f"without {prefix} prefix tokens. Give the size in pixels that they are for: image_size=(H, W)."
    )


def _relative_grid(n: int, native: tuple[int, int], other: tuple[int, int] | None, source: Source) -> tuple[int, int]:
    """(h, w) of a table of (2h - 1)(2w - 1) relative positions, as `_grid` finds it."""
    side = (math.isqrt(n) + 1) // 2
    for h, w in (native, (side, side), other or native):
        if (2 * h - 1) * (2 * w - 1) == n:
            return h, w
    raise UserError(
        f"{source.name}: {n} relative positions fit no square grid. Give the size in pixels that they are for: "
        "image_size=(H, W)."
    )
