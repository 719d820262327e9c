"""From a settled detection recipe to the parts of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from vit.detector import Detector
from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.model.depth import depth_of
from vit.pretrained.load_detector import Start, begin
from vit.tasks.classification.loss import inverse_frequency
from vit.tasks.classification.settle import Facts
from vit.tasks.detection.loss import DetectionLoss
from vit.tasks.detection.task import Detection

if TYPE_CHECKING:
    from vit.tasks.detection.recipe import DetectionRecipe, SettledDetection

_OUTPUT = re.compile(r"(?:^|\.)(?:class_head|box_head\.layers\.2)\.")


def begin_detector(recipe: DetectionRecipe) -> Start:
    """What the recipe's detector begins with: `recipe.weights`, or nothing."""
    names = ("queries", "groups", "drop_path", "patch_size")
    fields: dict[str, Any] = {name: getattr(recipe, name) for name in names if getattr(recipe, name) is not None}
    return begin(
        recipe.model, weights=recipe.weights, encoder=recipe.encoder, trust_pickle=recipe.trust_pickle, **fields
    )


def build_detector(recipe: SettledDetection, start: Start, classes: Sequence[str]) -> tuple[Detector, list[str]]:
    """The detector, and what to tell the user. Its class heads are new unless the weights know exactly these classes
    in this order."""
    new_head = start.classes != tuple(classes)
    model, notes = start.build(len(classes), recipe.image_size, new_head=new_head)
    return model, notes + freeze(recipe, model, pretrained=bool(start.tensors))


def freeze(recipe: SettledDetection, model: Detector, *, pretrained: bool) -> list[str]:
    """Choose which weights of the encoder the run keeps as they are; what to tell the user."""
    depth, kept = len(model.encoder.blocks), recipe.freeze_blocks
    if (recipe.freeze or kept is not None) and not pretrained:
        name = "--freeze" if recipe.freeze else "--freeze-blocks"
        raise UserError(f"{name} keeps weights that were learned before: add --weights SRC.")
    if recipe.freeze:
        model.encoder.requires_grad_(False)
        return ["the encoder is frozen: only neck, selection, decoder and heads are trained"]
    if kept is None:
        return []
    if kept > depth:
        raise UserError(f"--freeze-blocks {kept}: the encoder has {depth} blocks.")
    for name, parameter in model.named_parameters():
        if depth_of(name, depth) <= kept:
            parameter.requires_grad_(False)
    return [f"the patch embedding, the positions and {kept} of {depth} blocks are frozen"]


def detection_preprocess(recipe: SettledDetection, facts: Facts, start: Start) -> Preprocess:
    """The whole image, normalised as the weights are used to it, new ones by the training set's own statistics."""
    side, known = recipe.image_size, start.preprocess
    mean, std = (facts.mean, facts.std) if known is None else (known.mean, known.std)
    return Preprocess(size=(side, side), resize=recipe.resize, interpolation="bilinear", mean=mean, std=std)


def build_detection_task(
    recipe: SettledDetection, model: Detector, classes: Sequence[str], counts: torch.Tensor, size: tuple[int, int]
) -> Detection:
    """counts: training boxes of each class, int64 [K]; size: (H, W) of the model's input."""
    weights = inverse_frequency(counts) if recipe.class_weights else None
    loss = DetectionLoss(len(classes), kind=recipe.loss, class_weights=weights)
    return Detection(model, classes, loss.to(next(model.parameters()).device), size)


def hidden(name: str, parameter: torch.Tensor) -> bool:
    """What Muon is for in a detector: every matrix and kernel but the learned tables and the last layers of the heads.

    The whole of a new detector learns several times as fast by it (benchmarks/detection.md), not its blocks alone.
    """
    return not (name.startswith(("query", "encoder.pos_embed")) or _OUTPUT.search(name))


def detection_config(task: Detection, preprocess: Preprocess, data: dict[str, Any], flip: float) -> dict[str, Any]:
    """What config.json holds besides the weights: everything to rebuild the model and to prepare an image."""
    import vit

    model: Any = task.model
    return {
        "vitral": vit.__version__,
        "task": "detection",
        "model": model.config.to_dict(),
        "classes": list(task.classes),
        "category_ids": data["category_ids"],
        "preprocess": preprocess.to_dict(),
        "data": data,
        "augment": {"flip": flip},
    }
