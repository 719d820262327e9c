"""The valid range of every numeric option of the recipes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from vit.errors import UserError

LIMITS: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    ("at least 1", lambda v: v >= 1, (
        "epochs", "batch_size", "accumulate", "eval_every", "patience", "image_size", "patch_size", "queries", "groups",
        "lora_rank", "head_epochs", "save_every", "keep",
    )),
    ("at least 0", lambda v: v >= 0, ("freeze_blocks", "workers")),
    ("0 or a positive number", lambda v: 0 <= v < math.inf, (
        "lr", "muon_lr", "warmup", "final_lr", "mixup", "cutmix", "weight_decay", "l1", "layer_scale",
    )),
    ("above 0", lambda v: 0 < v < math.inf, ("cache_gb", "clip", "lora_alpha", "minutes")),
    ("in 0..1", lambda v: 0 <= v <= 1, ("label_smoothing", "erase", "close_mosaic")),
    ("at least 0 and below 1", lambda v: 0 <= v < 1, (
        "ema", "dropout", "attention_dropout", "drop_path", "patch_dropout", "multi_scale",
    )),
    ("above 0 and at most 1", lambda v: 0 < v <= 1, ("layer_decay",)),
    ("within 64 bits", lambda v: -(2**63) <= v < 2**63, ("seed",)),
)  # fmt: skip
"""(description of the range, test, fields). None is always valid: a value is chosen later."""


def check_limits(recipe: Any) -> None:
    """Raise UserError, naming the option as typed, if a field of the recipe is out of range."""
    for description, holds, names in LIMITS:
        for name in names:
            value = getattr(recipe, name, None)
            if value is not None and value != "auto" and not holds(value):
                raise UserError(f"--{name.replace('_', '-')} must be {description}, got {value}.")
