"""Which layer a parameter belongs to, by its name: for layer decay, freezing and the choice of an optimizer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
_LAYER = re.compile(r"(?:^|\.)(?:blocks|relative)\.(\d+)\.")
_EMBEDDINGS = {
    "patch_embed", "patch_norm", "cls_token", "dist_token", "reg_token", "pos_embed", "rope_freqs", "norm_pre",
}  # fmt: skip


def depth_of(name: str, depth: int) -> int:
    """The layer of a parameter of a model with `depth` blocks: 0 before the blocks (patches, tokens, positions),
    1..depth in the blocks, each with its relative positions, depth + 1 after them."""
    if layer := _LAYER.search(name):
        return int(layer[1]) + 1
    return depth + 1 if _EMBEDDINGS.isdisjoint(name.split(".")) else 0


def count_blocks(names: Iterable[str]) -> int:
    """The number of blocks among parameter names."""
    return 1 + max(int(block[1]) for name in names if (block := _BLOCK.search(name)))


def in_blocks(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a matrix of the encoder's blocks."""
    return parameter.ndim == 2 and _BLOCK.search(name) is not None
