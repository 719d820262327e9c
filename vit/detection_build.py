"""From a settled detection recipe to the parts of a run, as `vit.build` does for classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from vit.detection import Detection
from vit.detection_losses import DetectionLoss
from vit.detector import Detector
from vit.detector.start import create_detector
from vit.image import Preprocess
from vit.losses import inverse_frequency
from vit.recipes import Facts

if TYPE_CHECKING:
    from vit.detection_recipes import DetectionRecipe, SettledDetection


def build_detector(recipe: DetectionRecipe, classes: int, side: int | None) -> tuple[Detector, list[str]]:
    """A new detector, or one that starts from `recipe.weights`, and what to tell the user."""
    fields: dict[str, Any] = {
        name: getattr(recipe, name) for name in ("queries", "groups", "drop_path") if getattr(recipe, name) is not None
    }
    model, notes = create_detector(recipe.model, weights=recipe.weights, num_classes=classes, image_size=side, **fields)
    if recipe.freeze:
        model.encoder.requires_grad_(False)
        notes.append("the encoder is frozen: only neck, selection, decoder and heads are trained")
    return model, notes


def detection_preprocess(recipe: SettledDetection, facts: Facts) -> Preprocess:
    """The whole image, normalised by the training set's own statistics."""
    side = recipe.image_size
    return Preprocess(size=(side, side), resize=recipe.resize, interpolation="bilinear", mean=facts.mean, std=facts.std)


def build_detection_task(
    recipe: SettledDetection, model: Detector, classes: Sequence[str], counts: torch.Tensor, size: tuple[int, int]
) -> Detection:
    """counts: training boxes of each class, int64 [K]; size: (H, W) of the model's input."""
    weights = inverse_frequency(counts) if recipe.class_weights else None
    loss = DetectionLoss(len(classes), kind=recipe.loss, class_weights=weights)
    return Detection(model, classes, loss.to(next(model.parameters()).device), size)


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
