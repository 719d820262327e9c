"""Choose the open fields of a detection recipe from the data: input size, augmentation, optimizer, length."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

from vit.errors import UserError
from vit.pretrained.load_detector import Start
from vit.tasks.detection.recipe import USUAL_BATCH, Recipe
from vit.tasks.facts import MOST_WORKERS, Facts, cores

if TYPE_CHECKING:

    class Settled(Recipe):
        """A recipe after `settle`: only fields that the model determines may be None."""

        image_size: int
        resize: Literal["squash", "letterbox"]
        augment: Literal["none", "light", "lsj", "strong"]
        optimizer: Literal["adamw", "muon"]
        epochs: int
        batch_size: int
        lr: float
        layer_decay: float
        workers: int
        warmup: float
        ema: float
        eval_every: int


BOXES_SEEN = 400_000
"""Boxes (10 per image) that a run from scratch should see."""
TRIAL_BATCH = 4
"""Batch size that --batch-size auto starts with."""


def settle(recipe: Recipe, facts: Facts, start: Start) -> tuple[Settled, list[str]]:
    """Fill every open field except a batch size of "auto"; also notes on what was chosen. start: what the weights
    determine. Raises UserError for an input size that the detector cannot take."""
    r, n = recipe, facts.images
    divisor, pretrained = start.config.divisor, start.preprocess if start.knows_boxes else None
    chosen: dict[str, object] = {}

    def choose(name: str, value: object) -> None:
        if getattr(r, name) is None:
            chosen[name] = value

    longest = max(facts.size)
    nearest = max(divisor, min(round(longest / divisor), 640 // divisor) * divisor)
    choose("image_size", nearest if pretrained is None else max(pretrained.size))
    choose("resize", "letterbox" if pretrained is None else pretrained.resize)
    choose("augment", "light" if n < 5_000 else "lsj")
    choose("optimizer", "muon" if r.weights is None else "adamw")
    choose("batch_size", USUAL_BATCH)
    # Pretrained weights get a low rate, lower for earlier layers (LW-DETR and RF-DETR use a layer decay of 0.8).
    choose("lr", 5e-4 if r.weights is None else 2e-4)
    choose("layer_decay", 1.0 if r.weights is None else 0.8)
    choose("epochs", max(12, min(300, math.ceil(BOXES_SEEN / max(1, n) / 10))))
    epochs = r.epochs or chosen["epochs"]
    assert isinstance(epochs, int)
    choose("warmup", min(3.0, epochs / 15))
    batch = r.batch_size if isinstance(r.batch_size, int) else USUAL_BATCH
    choose("ema", round(1 - 1 / min(2000.0, max(10.0, 0.08 * max(1, n // batch) * epochs)), 5))
    choose("eval_every", max(1, epochs // 20))
    choose("workers", 0 if longest <= 128 else min(MOST_WORKERS, cores()))
    settled = cast("Settled", replace(r, **chosen))  # pyright: ignore[reportArgumentType]
    if settled.image_size % divisor:
        raise UserError(
            f"--image-size {settled.image_size}: the detector needs a multiple of {divisor}, for example "
            f"{max(divisor, round(settled.image_size / divisor) * divisor)}."
        )
    return settled, [_choices(chosen, facts)]


def largest(recipe: Settled, start: Start) -> Settled:
    """The recipe at its largest input size, which has to fit into memory."""
    if not recipe.multi_scale:
        return recipe
    divisor = start.config.divisor
    side = int(recipe.image_size * (1 + recipe.multi_scale) / divisor) * divisor
    return cast("Settled", replace(recipe, image_size=side, multi_scale=0.0))


def _choices(chosen: dict[str, object], facts: Facts) -> str:
    h, w = facts.size
    line = f"{facts.images:,} training images, {facts.classes} classes, median size {w}x{h}"
    if not chosen:
        return f"{line}."
    values = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in chosen.items()]
    return f"{line}. Chosen: {', '.join(values)}."
