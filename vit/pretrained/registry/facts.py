"""What the keys and shapes of a file say about its model. The rest (heads, activation, eps, RoPE) is the family's."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from vit.errors import UserError
from vit.model.config import ClassifierConfig, EncoderConfig
from vit.pretrained.files.source import Source
from vit.pretrained.layouts.rules import Layout, Recognised

Shape = tuple[int, ...]


def config_of_file(
    file: Recognised,
    config: ClassifierConfig,
    known: tuple[int, int] | None = None,
    wanted: tuple[int, int] | None = None,
) -> ClassifierConfig:
    """The config of the model in a file, from the family's `config`. Raises UserError when the sizes differ.

    known, wanted: (H, W) in pixels that the positions are for, as is said beside the file, or may be for: their number
    alone tells of squares only.
    """
    layout, source, inside = file.layout, file.source, file.inside
    rows: dict[str, tuple[int, list[str]]] = {}
    for mine, theirs, _ in layout.pairs(1):
        if inside.issuperset(theirs):
            for name in mine:
                rows.setdefault(name, (len(mine), theirs))

    def shape(ours: str) -> Shape | None:
        """Of `ours` as it will be read; None if the file has nothing for it. No data is touched."""
        if ours not in rows:
            return None
        number, theirs = rows[ours]
        parts = [layout.theirs(n, torch.empty(file.shape(n), device="meta"), config, False) for n in theirs]
        joined = torch.cat(parts) if len(parts) > 1 else parts[0]
        share = joined.chunk(number)[0] if number > 1 else joined
        return tuple(layout.ours(ours, share, config, False).shape)

    e, block = config.encoder, "encoder.blocks.0."
    depth = _depth(layout, inside)
    hidden = shape(block + "mlp.fc1.weight") if e.feed_forward == "mlp" else shape(block + "mlp.w3.weight")
    kernel = shape("encoder.patch_embed.proj.weight")
    _compare(layout, config, source, depth, hidden, kernel)
    assert kernel is not None
    registers, position = shape("encoder.reg_token"), shape("encoder.pos_embed")
    patch, chans = _patch(kernel, e.patch_size)
    encoder = replace(
        e,
        patch_size=patch,
        in_chans=chans,
        image_size=_pixels(known or tuple(side // e.patch_size * patch for side in e.image_size), patch),
        patch_bias=shape("encoder.patch_embed.proj.bias") is not None,
        patch_norm=shape("encoder.patch_norm.weight") is not None,
        class_token=shape("encoder.cls_token") is not None,
        distill_token=shape("encoder.dist_token") is not None,
        registers=registers[-2] if registers else 0,
        positions="learned" if position else "none" if e.positions == "learned" else e.positions,
        prefix_positions=0,
        position_resize=layout.resize or e.position_resize,
        relative_positions=shape("encoder.relative.0.table") is not None,
        pre_norm=shape("encoder.norm_pre.weight") is not None,
        feed_forward_norm=shape(block + "mlp.norm.weight") is not None,
        attention_norm=shape(block + "attn.inner_norm.weight") is not None,
        qk_norm=shape(block + "attn.q_norm.weight") is not None,
        bias=shape(block + "attn.proj.bias") is not None,
        qkv_bias=True if shape(block + "attn.qkv.bias") else "qv" if shape(block + "attn.q_bias") else False,
        layer_scale=(e.layer_scale or 1e-5) if shape(block + "ls1.gamma") else None,
        final_norm=shape("encoder.norm.weight") is not None,
    )
    pool_norm = shape("pool_norm.weight") is not None
    _same_family(encoder, e, pool_norm, config.pool_norm, source)
    other = None if wanted is None else (wanted[0] // patch, wanted[1] // patch)
    if position:
        size, placed = _grid(position[-2], encoder.grid, other, encoder.prefix, source)
        encoder = replace(encoder, image_size=(size[0] * patch, size[1] * patch), prefix_positions=placed)
    elif table := shape("encoder.relative.0.table"):
        h, w = _relative_grid(table[0] - 3, encoder.grid, other, source)
        encoder = replace(encoder, image_size=(h * patch, w * patch))
    head = shape("head.weight") or shape("head.cls.weight")
    pool = config.pool
    # Without its attention a tower pools the mean, and so does everybody who norms after pooling instead of before.
    if (pool == "attention" and shape("attn_pool.probe") is None) or (pool == "class" and pool_norm):
        pool = "mean"
    found = replace(
        config,
        encoder=encoder,
        pool=pool,
        pool_norm=pool_norm,
        num_classes=head[0] if head else 0,
        head_bias=bool(shape("head.bias") or shape("head.cls.bias")) if head else True,
    )
    return layout.adapt(found, inside)


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
    """What is computed differs without these parts, and no key of a file would tell that they are gone."""
    has, should = ({key: getattr(e, key) not in ("none", None, False) for key in PARTS} for e in (found, family))
    has["norm"] = found.final_norm or pool_norm
    should["norm"] = family.final_norm or family_pool_norm
    lost = [PARTS.get(key, "last norm") for key in has if should[key] and not has[key]]
    # A distillation token is seen by the others, and that is all that it changes where it has no head.
    more = [PARTS[key] for key in PARTS if has[key] and not should[key] and key != "distill_token"]
    told = [f"{what} {', '.join(parts)}" for what, parts in (("has no", lost), ("has a", more)) if parts]
    if told:
        raise UserError(
            f"{source.name} {' and '.join(told)}, unlike this family of models. Is it another family's file?"
        )


def _compare(
    layout: Layout,
    config: ClassifierConfig,
    source: Source,
    depth: int,
    hidden: Shape | None,
    kernel: Shape | None,
) -> None:
    e = config.encoder
    if kernel is None or hidden is None:
        what = "patch embedding" if kernel is None else f"{e.feed_forward} layers"
        raise UserError(f"{source.name} ({layout.name}) has no {what} that this model could use.")
    mlp = hidden[0] if e.feed_forward == "mlp" else hidden[1]
    found, wanted = (kernel[0], depth, mlp), (e.width, e.depth, e.mlp)
    if found != wanted:
        raise UserError(
            f"{source.name} holds another size of model: width {found[0]}, {found[1]} blocks, hidden {found[2]}; the "
            f"name asked for means width {wanted[0]}, {wanted[1]} blocks, hidden {wanted[2]}."
        )


def _depth(layout: Layout, inside: set[str]) -> int:
    depth = 0
    pairs = [(ours, theirs) for ours, theirs, *_ in layout.rows if ours.startswith("encoder.blocks.#.norm1")]
    while any(theirs.replace("#", str(depth)).replace(".*", ".weight") in inside for _, theirs in pairs):
        depth += 1
    return depth


def _pixels(size: tuple[int, ...], patch: int) -> tuple[int, int]:
    """The whole patches of (H, W) pixels: Hugging Face's SigLIP of 384 pixels has 27 patches of 14."""
    height, width = size
    return height // patch * patch, width // patch * patch


def _patch(kernel: Shape, patch: int) -> tuple[int, int]:
    """(patch size, channels) from a kernel [D, C, p, p], or [D, C*p*p] where it is linear."""
    if len(kernel) == 4:
        return kernel[2], kernel[1]
    return patch, kernel[1] // patch**2


def _grid(
    n: int, native: tuple[int, int], other: tuple[int, int] | None, prefix: int, source: Source
) -> tuple[tuple[int, int], int]:
    """(grid, positions of prefix tokens) of n positions: the family's own grid, else a square one, else `other`."""
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
        f"without {prefix} prefix tokens. Say the size in pixels that they are for: image_size=(H, W)."
    )


def _relative_grid(n: int, native: tuple[int, int], other: tuple[int, int] | None, source: Source) -> tuple[int, int]:
    """(h, w) of a table of (2h - 1)(2w - 1) relative positions, as `_grid` finds it."""
    side = (math.isqrt(n) + 1) // 2
    for h, w in (native, (side, side), other or native):
        if (2 * h - 1) * (2 * w - 1) == n:
            return h, w
    raise UserError(
        f"{source.name}: {n} relative positions are those of no square grid. Say the size in pixels that they are for: "
        "image_size=(H, W)."
    )
