"""From a settled recipe to what a run of detection trains: model, preprocessing, loss."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vit.detector import Detector
from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.model.depth import depth_of
from vit.pretrained.load_detector import Start
from vit.pretrained.load_detector import begin as begin_detector
from vit.tasks.detection.loss import DetectionLoss
from vit.tasks.detection.previews import Previews, spread
from vit.tasks.detection.task import Detection
from vit.tasks.facts import Facts, inverse_frequency
from vit.tasks.run import Built, Parts, Run

if TYPE_CHECKING:
    from vit.tasks.detection.recipe import Recipe
    from vit.tasks.detection.settle import Settled

_OUTPUT = re.compile(r"(?:^|\.)(?:class_head|box_head\.layers\.2)\.")


def begin(recipe: Recipe) -> Start:
    """What the recipe's detector begins with: `recipe.weights`, or nothing."""
    names = ("queries", "groups", "drop_path", "patch_size")
    fields: dict[str, Any] = {name: getattr(recipe, name) for name in names if getattr(recipe, name) is not None}
    return begin_detector(
        recipe.model, weights=recipe.weights, encoder=recipe.encoder, trust_pickle=recipe.trust_pickle, **fields
    )


def build(recipe: Settled, data: Any, facts: Facts, start: Start) -> Built:
    """The detector, and how its images are prepared. Its class heads are new unless the weights know exactly the data's
    classes in their order."""
    new_head = start.classes != tuple(data.classes)
    model, notes = start.build(len(data.classes), recipe.image_size, new_head=new_head)
    notes += freeze(recipe, model, pretrained=bool(start.tensors))
    return Built(model, detection_preprocess(recipe, facts, start), start.name, notes)


def freeze(recipe: Settled, model: Detector, *, pretrained: bool) -> list[str]:
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


def detection_preprocess(recipe: Settled, facts: Facts, start: Start) -> Preprocess:
    """The whole image, normalised as the weights are used to it, new ones by the training set's own statistics."""
    side, known = recipe.image_size, start.preprocess
    mean, std = (facts.mean, facts.std) if known is None else (known.mean, known.std)
    return Preprocess(size=(side, side), resize=recipe.resize, interpolation="bilinear", mean=mean, std=std)


def build_task(recipe: Settled, built: Built, data: Any) -> Detection:
    """The loss and the metrics of the run. data: its classes, and how often each occurs among the training boxes."""
    weights = inverse_frequency(torch.from_numpy(data.train.counts())) if recipe.class_weights else None
    loss = DetectionLoss(len(data.classes), kind=recipe.loss, class_weights=weights)
    loss.to(next(built.model.parameters()).device)
    model: Any = built.model
    return Detection(model, data.classes, loss, built.preprocess.size)


def by_muon(name: str, parameter: torch.Tensor) -> bool:
    """What Muon is for in a detector: every matrix and kernel but the learned tables and the last layers of the heads.

    The whole of a new detector learns several times as fast by it (benchmarks/detection.md), not its blocks alone.
    """
    return not (name.startswith(("query", "encoder.pos_embed")) or _OUTPUT.search(name))


def checkpoint_config(task: Detection, preprocess: Preprocess, data: dict[str, Any], flip: float) -> dict[str, Any]:
    """What config.json holds besides the weights: everything to rebuild the model and to prepare an image."""
    model: Any = task.model
    return {
        "task": "detection",
        "model": model.config.to_dict(),
        "classes": list(task.classes),
        "category_ids": data["category_ids"],
        "preprocess": preprocess.to_dict(),
        "data": data,
        "augment": {"flip": flip},
    }


def prepare(run: Run, parts: Parts, feed: Any, folder: Path) -> None:
    """Before the loop begins: have what the detector finds in the same validation images drawn at every evaluation."""
    data = run.data
    if run.recipe.previews and data.val:
        parts.watch = Previews(folder / "previews", data.val, spread(data.val.objects()), data.classes).draw
