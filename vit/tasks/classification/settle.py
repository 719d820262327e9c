"""Choose the open fields of a recipe from the data: model, input size, augmentation, optimizer, length."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

from vit.pretrained.registry.find import find
from vit.tasks.classification.recipe import Recipe
from vit.tasks.facts import MOST_WORKERS, Facts, cores

if TYPE_CHECKING:

    class Settled(Recipe):
        """A recipe after `settle`: only fields that `weights` determine may be None."""

        resize: Literal["crop", "squash", "letterbox"]
        augment: Literal["none", "glyph", "light", "augreg", "deit3"]
        optimizer: Literal["adamw", "muon"]
        epochs: int
        batch_size: int
        lr: float
        weight_decay: float
        layer_decay: float
        workers: int
        mixup: float
        cutmix: float
        warmup: float
        ema: float
        drop_path: float
        layer_scale: float
        eval_every: int


TRIAL_BATCH = 32
"""Batch size that --batch-size auto starts with."""
SMALL = 40
"""Images up to this side, in pixels, need no worker processes to decode."""
FEW = 1000
"""Up to this many images, `folder` recommends public weights."""
PUBLIC = "hf:facebook/dinov2-small"
SIDES = (32, 64, 96, 128, 160, 224)
"""Input sizes that `settle` chooses from."""


def settle(recipe: Recipe, facts: Facts, start: None = None) -> tuple[Settled, list[str]]:
    """Fill every open field from the facts; also notes on what was chosen."""
    r, n = recipe, facts.images
    longest = max(facts.size)
    small = longest <= SMALL
    glyph = small and facts.gray
    chosen: dict[str, object] = {}

    def choose(name: str, value: object) -> None:
        if getattr(r, name) is None:
            chosen[name] = value

    scratch = r.weights is None
    if scratch:
        side = r.image_size or _side_for(longest, r.model)
        choose("image_size", side)
        choose("model", _model_for(n, side))
    choose("resize", "squash" if facts.gray else "crop")
    choose("augment", "glyph" if glyph else "light" if n < 20_000 or not scratch else "deit3")
    rule = r.optimizer or ("muon" if r.lora_rank is None else "adamw")
    choose("optimizer", rule)
    # Strong weight decay, drop path and mixup keep a few thousand images from overfitting (benchmarks/digits.md).
    choose("weight_decay", 0.05 if rule == "adamw" else 1.0 if glyph else 0.5)
    tunes = r.recipe == "finetune"
    assert r.batch_size != "auto"  # already measured
    batch = r.batch_size or (16 if tunes and n <= 1000 else 64 if n <= 20_000 else 256)
    choose("batch_size", batch)
    if tunes:
        # LoRA on the digits of `tuning_epochs`: 93.4, 93.6, 92.8 % at 3e-4, 1e-3, 3e-3; 88.8 % with layer decay.
        choose("lr", 3e-4 if r.lora_rank is None else 1e-3)
        choose("layer_decay", 0.75 if r.lora_rank is None else 1.0)
        choose("epochs", tuning_epochs(n, batch))
    else:
        choose("lr", 1e-3 * math.sqrt(batch / 64))
        choose("layer_decay", 1.0)
        choose("epochs", epochs_for(n, longest) if glyph else epochs_for_photographs(n))
    epochs = r.epochs or chosen["epochs"]
    assert isinstance(epochs, int)
    choose("warmup", min(5.0, epochs / 15))
    steps = max(1, n // batch) * epochs
    # Average over about the last 8 % of the run, at most 2,000 steps.
    choose("ema", round(1 - 1 / min(2000.0, max(10.0, 0.08 * steps)), 5))
    choose("drop_path", 0.1 if scratch or n >= 50_000 else 0.0)
    choose("layer_scale", 0.0 if n < 50_000 else 1e-4)
    choose("mixup", 0.2)
    choose("cutmix", 0.0 if glyph else 1.0)
    # Fifteen evaluations are enough for a curve and for the choice of the best; each also writes checkpoints.
    choose("eval_every", max(1, epochs // 15))
    choose("workers", 0 if small else min(MOST_WORKERS, cores()))
    lines = _choices(chosen, facts) + _advice(r, facts)
    return cast("Settled", replace(r, **chosen)), lines  # pyright: ignore[reportArgumentType]


def largest(recipe: Settled, start: None) -> Settled:
    """The recipe at its largest input size: unchanged."""
    return recipe


def epochs_for(n: int, side: int) -> int:
    """Epochs for small grayscale images of `side` pixels: 34 were enough for 3,500 images of 28 pixels. Fewer images
    need more epochs, though fewer steps; smaller ones need fewer: 7 were enough at 8x8 pixels."""
    epochs = 34 * max(1.0, 3500 / max(1, n)) ** 0.75
    return min(400, max(12, math.ceil(epochs * min(1.0, side / 28) ** 1.5)))


def epochs_for_photographs(n: int) -> int:
    """Photographs need more epochs than glyphs: at least 100."""
    return min(400, max(100, math.ceil(30 * (3500 / max(1, n)) ** 0.75)))


def tuning_epochs(n: int, batch: int) -> int:
    """20 epochs, or 200 steps if that is more: on 80 labeled digits, DINOv2's ViT-S reaches 96 % in 200 steps of 16
    images, but 59 % in 20 steps (20 epochs at batch size 64)."""
    return max(20, math.ceil(200 / max(1, n // batch)))


def _side_for(longest: int, model: str | None) -> int:
    """The first of SIDES that keeps most of the resolution; with a model, the nearest multiple of its patch size."""
    side = next((s for s in SIDES if s >= 0.8 * longest), SIDES[-1])
    if model is None:
        return side
    patch = find(model).patch
    return max(1, round(side / patch)) * patch


def _model_for(n: int, side: int) -> str:
    """More data supports a larger model; below 200,000 images, a convolutional stem supplies the inductive bias that a
    plain ViT lacks (83.5 -> 96.6 % on 8,000 small images)."""
    size = "nano" if n < 20_000 else "ti" if n < 100_000 else "s" if n < 1_000_000 else "b"
    patch = 8 if side <= 96 else 16
    return f"vit_{size}{patch}" + ("_conv_mean" if n < 200_000 else "")


def _choices(chosen: dict[str, object], facts: Facts) -> list[str]:
    if not chosen:
        return []
    h, w = facts.size
    color = "grayscale" if facts.gray else "color"
    lines = [f"{facts.images:,} training images, {facts.classes} classes, median size {w}x{h}, {color}. Chosen:"]
    shown = ("model", "image_size", "resize", "augment", "optimizer", "lr", "batch_size", "epochs", "mixup", "cutmix")
    values = [f"{name} {_plain(chosen[name])}" for name in shown if name in chosen]
    lines.append("  " + ", ".join(values))
    if "epochs" in chosen and max(facts.size) > SMALL:
        lines.append("  Use --epochs or --minutes for a shorter run.")
    return lines


def _advice(recipe: Recipe, facts: Facts) -> list[str]:
    """Recommend public weights for few images, since a newcomer to `folder` may not know them."""
    if recipe.recipe != "folder" or recipe.weights is not None or facts.images > FEW:
        return []
    data = shlex.quote(str(recipe.data))
    return [
        "Public weights usually help with few images (95.5 instead of 93.6 % on 100 digits, benchmarks/RESULTS.md):",
        f"  vitral train finetune --data {data} --weights {PUBLIC}",
    ]


def _plain(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
