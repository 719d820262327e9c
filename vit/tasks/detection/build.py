"""Build the model, preprocessing and loss of a detection run from a settled recipe."""

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
    """What the recipe's detector starts from: `recipe.weights`, or nothing."""
    names = ("queries", "groups", "drop_path", "patch_size")
    fields: dict[str, Any] = {name: getattr(recipe, name) for name in names if getattr(recipe, name) is not None}
    return begin_detector(
        recipe.model, weights=recipe.weights, encoder=recipe.encoder, trust_pickle=recipe.trust_pickle, **fields
    )


def build(recipe: Settled, data: Any, facts: Facts, start: Start) -> Built:
    """The detector and its preprocessing. Class heads are new unless the weights have the data's classes in order."""
    new_head = start.classes != tuple(data.classes)
    model, notes = start.build(len(data.classes), recipe.image_size, new_head=new_head)
    notes += freeze(recipe, model, pretrained=bool(start.tensors))
    return Built(model, detection_preprocess(recipe, facts, start), start.name, notes)


def freeze(recipe: Settled, model: Detector, *, pretrained: bool) -> list[str]:
    """Freeze weights of the encoder as the recipe says; notes for the user."""
    depth, kept = len(model.encoder.blocks), recipe.freeze_blocks
    if (recipe.freeze or kept is not None) and not pretrained:
        name = "--freeze" if recipe.freeze else "--freeze-blocks"
        raise UserError(f"{name} keeps pretrained weights: add --weights SRC.")
    if recipe.freeze:
        model.encoder.requires_grad_(False)
        return ["The encoder is frozen: only neck, selection, decoder and heads are trained."]
    if kept is None:
        return []
    if kept > depth:
        raise UserError(f"--freeze-blocks {kept}: the encoder has {depth} blocks.")
    for name, parameter in model.named_parameters():
        if depth_of(name, depth) <= kept:
            parameter.requires_grad_(False)
    return [f"The patch embedding, the positions and {kept} of {depth} blocks are frozen."]


def detection_preprocess(recipe: Settled, facts: Facts, start: Start) -> Preprocess:
    """The whole image, normalized as for the weights; for new ones, by the training set's own statistics."""
    side, pretrained = recipe.image_size, start.preprocess
    mean, std = (facts.mean, facts.std) if pretrained is None else (pretrained.mean, pretrained.std)
    return Preprocess(size=(side, side), resize=recipe.resize, interpolation="bilinear", mean=mean, std=std)


def build_task(recipe: Settled, built: Built, data: Any) -> Detection:
    """The loss and the metrics of the run. data: gives the classes and their counts among the training boxes."""
    weights = inverse_frequency(torch.from_numpy(data.train.counts())) if recipe.class_weights else None
    loss = DetectionLoss(len(data.classes), kind=recipe.loss, class_weights=weights)
    loss.to(next(built.model.parameters()).device)
    model: Any = built.model
    return Detection(model, data.classes, loss, built.preprocess.size)


def by_muon(name: str, parameter: torch.Tensor) -> bool:
    """Whether Muon trains a parameter: every matrix and kernel except learned tables and the last layers of heads. A
    new detector learns several times as fast as with Muon for its blocks only (benchmarks/detection.md)."""
    return not (name.startswith(("query", "encoder.pos_embed")) or _OUTPUT.search(name))


def checkpoint_config(task: Detection, preprocess: Preprocess, data: dict[str, Any], flip: float) -> dict[str, Any]:
    """The contents of config.json: everything needed to rebuild the model and to preprocess an image."""
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
    """Draw the detections in the same validation images at every evaluation, if the recipe says so."""
    data = run.data
    if run.recipe.previews and data.val:
        parts.watch = Previews(folder / "previews", data.val, spread(data.val.objects()), data.classes).draw
