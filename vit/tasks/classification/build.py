"""Build the model, preprocessing and loss of a classification run from a settled recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.model.classifier import Classifier
from vit.model.config import ClassifierConfig
from vit.model.depth import depth_of
from vit.model.depth import in_blocks as by_muon
from vit.model.lora import add_lora
from vit.pretrained.create import create
from vit.pretrained.transfer import start_from
from vit.tasks.classification.loss import ClassificationLoss
from vit.tasks.classification.probe import prepare
from vit.tasks.classification.task import Classification
from vit.tasks.facts import Facts, inverse_frequency
from vit.tasks.run import Built

if TYPE_CHECKING:
    from vit.tasks.classification.recipe import Recipe
    from vit.tasks.classification.settle import Settled

__all__ = ["begin", "build", "build_model", "build_task", "by_muon", "checkpoint_config", "prepare"]


def begin(recipe: Recipe) -> None:
    """Do nothing: a classifier's recipe is settled without its weights."""


def build(recipe: Settled, data: Any, facts: Facts, start: None = None) -> Built:
    """The model of a run and its preprocessing."""
    model, preprocess, notes = build_model(recipe, data.classes, facts)
    return Built(model, preprocess, str(recipe.model or recipe.weights), notes)


def build_model(recipe: Settled, classes: Sequence[str], facts: Facts) -> tuple[Classifier, Preprocess, list[str]]:
    """A new model, or one that starts from `recipe.weights`; its preprocessing; and notes for the user."""
    regularizers: dict[str, Any] = {
        "dropout": recipe.dropout,
        "attention_dropout": recipe.attention_dropout,
        "drop_path": recipe.drop_path,
        "skip_dropped": recipe.skip_dropped,
        "patch_dropout": recipe.patch_dropout,
    }
    side = recipe.image_size
    if recipe.weights is None:
        assert recipe.model is not None and side is not None
        if recipe.recipe in ("finetune", "probe"):
            raise UserError(f"{recipe.recipe} starts from a checkpoint: add --weights RUN (or timm:NAME, or a file).")
        if recipe.keeps:
            raise UserError(f"{recipe.keeps[0]} keeps pretrained weights: add --weights SRC.")
        model = create(
            recipe.model,
            num_classes=len(classes),
            image_size=side,
            layer_scale=recipe.layer_scale or None,
            **regularizers,
        )
        return model, fresh_preprocess(recipe, facts, side), []
    size = (side, side) if side is not None else None
    model, config, notes = start_from(
        recipe.weights,
        tuple(classes),
        name=recipe.model,
        image_size=size,
        trust_pickle=recipe.trust_pickle,
        **regularizers,
    )
    preprocess = Preprocess.from_dict(config["preprocess"])
    preprocess = replace(preprocess, size=model.config.encoder.image_size, resize=recipe.resize or preprocess.resize)
    return model, preprocess, notes + freeze(recipe, model)


def freeze(recipe: Settled, model: Classifier) -> list[str]:
    """Freeze weights, or add LoRA, as the recipe says; notes for the user."""
    depth, notes = len(model.encoder.blocks), []
    kept = recipe.freeze_blocks or 0
    if kept > depth:
        raise UserError(f"--freeze-blocks {kept}: the model has {depth} blocks.")
    if recipe.freeze:
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        notes.append("The encoder is frozen: only the head is trained.")
    if recipe.lora_rank is not None:
        if kept == depth:
            raise UserError(f"--freeze-blocks {kept} leaves no block for the updates of --lora-rank.")
        layers = add_lora(model, recipe.lora_rank, recipe.lora_alpha, first_block=kept)
        notes.append(f"LoRA of rank {recipe.lora_rank} on {layers} linear layers; only it and the head are trained.")
    if recipe.freeze_blocks is not None:
        for name, parameter in model.named_parameters():
            if depth_of(name, depth) <= kept:
                parameter.requires_grad_(False)
        notes.append(f"The patch embedding, the positions and {kept} of {depth} blocks are frozen.")
    if recipe.head_epochs is not None:
        notes.append(f"Up to epoch {recipe.head_epochs}, only the head is trained.")
    return notes


def fresh_preprocess(recipe: Settled, facts: Facts, side: int) -> Preprocess:
    """Normalize by the training set's own statistics; center-crop photographs to 7/8, as is usual."""
    return Preprocess(
        size=(side, side),
        resize=recipe.resize,
        crop=0.875 if recipe.resize == "crop" and side >= 128 else 1.0,
        mean=facts.mean,
        std=facts.std,
    )


def build_task(recipe: Settled, built: Built, data: Any) -> Classification:
    """The loss and the metrics of the run. data: gives the classes and their counts among the training images."""
    counts = torch.from_numpy(data.train.counts())
    loss = ClassificationLoss(
        len(data.classes),
        multilabel=data.multilabel,
        label_smoothing=recipe.label_smoothing,
        class_weights=inverse_frequency(counts) if recipe.class_weights else None,
        l1=recipe.l1,
    )
    loss.to(next(built.model.parameters()).device)
    return Classification(built.model, data.classes, loss, lora_alpha=recipe.lora_alpha)


def checkpoint_config(
    task: Classification, preprocess: Preprocess, data: dict[str, Any], flip: float
) -> dict[str, Any]:
    """The contents of config.json: everything needed to rebuild the model and to preprocess an image."""
    model: Any = task.whole
    config: ClassifierConfig = model.config
    return {
        "task": "classification",
        "model": config.to_dict(),
        "classes": list(task.classes),
        "multilabel": task.loss.multilabel,
        "preprocess": preprocess.to_dict(),
        "temperature": None,
        "data": data,
        "augment": {"flip": flip},
    }
