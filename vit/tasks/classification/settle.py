"""What a recipe leaves open is chosen from the data: model, input size, augmentation, optimizer, length."""

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
        """A recipe after `settle`: nothing is open but what comes with `weights`."""

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
"""Images in the batch that --batch-size auto begins with."""
SMALL = 40
"""Images of at most so many pixels a side are decoded in no time and kept in memory."""
FEW = 1000
"""Up to so many images `folder` names the way to public weights."""
PUBLIC = "hf:facebook/dinov2-small"
SIDES = (32, 64, 96, 128, 160, 224)
"""Input sizes that `settle` chooses from."""


def settle(recipe: Recipe, facts: Facts, start: None = None) -> tuple[Settled, list[str]]:
    """Fill in every open field from the facts; also the lines that say what was chosen and why."""
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
    # Weight decay, drop path and mixup hold back what a few thousand images invite to overfit (benchmarks/digits.md).
    choose("weight_decay", 0.05 if rule == "adamw" else 1.0 if glyph else 0.5)
    tunes = r.recipe == "finetune"
    assert r.batch_size != "auto"  # which is measured before
    batch = r.batch_size or (16 if tunes and n <= 1000 else 64 if n <= 20_000 else 256)
    choose("batch_size", batch)
    if tunes:
        # LoRA on those of `tuning_epochs`: 93.4, 93.6, 92.8 % at 3e-4, 1e-3, 3e-3; at 1e-3 with layer decay 88.8 %.
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
    # An average over about the last 8 % of the run, at most 2,000 steps.
    choose("ema", round(1 - 1 / min(2000.0, max(10.0, 0.08 * steps)), 5))
    choose("drop_path", 0.1 if scratch or n >= 50_000 else 0.0)
    choose("layer_scale", 0.0 if n < 50_000 else 1e-4)
    choose("mixup", 0.2)
    choose("cutmix", 0.0 if glyph else 1.0)
    # Some fifteen evaluations are enough to see a curve and to choose the best one from; each also writes checkpoints.
    choose("eval_every", max(1, epochs // 15))
    choose("workers", 0 if small else min(MOST_WORKERS, cores()))
    lines = _choices(chosen, facts) + _advice(r, facts)
    return cast("Settled", replace(r, **chosen)), lines  # pyright: ignore[reportArgumentType]


def largest(recipe: Settled, start: None) -> Settled:
    """The recipe with every batch as large as its largest: as it is."""
    return recipe


def epochs_for(n: int, side: int) -> int:
    """For small grayscale images of `side` pixels: 34 epochs were enough for 3,500 of 28 pixels; fewer images need more
    rounds, though fewer steps in all. Smaller ones hold less to learn: 8x8 pixels were learnt within 7."""
    rounds = 34 * max(1.0, 3500 / max(1, n)) ** 0.75
    return min(400, max(12, math.ceil(rounds * min(1.0, side / 28) ** 1.5)))


def epochs_for_photographs(n: int) -> int:
    """They have more to learn than glyphs, and take at least 100."""
    return min(400, max(100, math.ceil(30 * (3500 / max(1, n)) ** 0.75)))


def tuning_epochs(n: int, batch: int) -> int:
    """20, or what makes 200 steps: with 80 labelled digits DINOv2's ViT-S comes to 96 % in 200 steps of 16 images, and
    to 59 % in the 20 steps that 20 epochs of 64 are."""
    return max(20, math.ceil(200 / max(1, n // batch)))


def _side_for(longest: int, model: str | None) -> int:
    """The first of SIDES that loses little of the images; of a model that is asked for, the nearest that its patches
    divide."""
    side = next((s for s in SIDES if s >= 0.8 * longest), SIDES[-1])
    if model is None:
        return side
    patch = find(model).patch
    return max(1, round(side / patch)) * patch


def _model_for(n: int, side: int) -> str:
    """More data carries a larger model; below 200,000 images a convolutional stem makes up for what a plain ViT
    would have to learn from them (83.5 -> 96.6 % on 8,000 small images)."""
    size = "nano" if n < 20_000 else "ti" if n < 100_000 else "s" if n < 1_000_000 else "b"
    patch = 8 if side <= 96 else 16
    return f"vit_{size}{patch}" + ("_conv_mean" if n < 200_000 else "")


def _choices(chosen: dict[str, object], facts: Facts) -> list[str]:
    if not chosen:
        return []
    h, w = facts.size
    color = "grayscale" if facts.gray else "color"
    lines = [f"{facts.images:,} training images, {facts.classes} classes, median size {w}x{h}, {color}: chosen"]
    shown = ("model", "image_size", "resize", "augment", "optimizer", "lr", "batch_size", "epochs", "mixup", "cutmix")
    values = [f"{name} {_plain(chosen[name])}" for name in shown if name in chosen]
    lines.append("  " + ", ".join(values))
    if "epochs" in chosen and max(facts.size) > SMALL:
        lines.append("  --epochs or --minutes makes the run shorter")
    return lines


def _advice(recipe: Recipe, facts: Facts) -> list[str]:
    """What few images gain from public weights, which a newcomer to `folder` may not know of."""
    if recipe.recipe != "folder" or recipe.weights is not None or facts.images > FEW:
        return []
    data = shlex.quote(str(recipe.data))
    return [
        "Public weights usually help with few images (95.5 instead of 93.6 % on 100 digits, benchmarks/RESULTS.md):",
        f"  vitral train finetune --data {data} --weights {PUBLIC}",
    ]


def _plain(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
