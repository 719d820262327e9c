"""The data of a classification recipe, and the batches of a run for training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vit.data.augment.batches import Mix
from vit.data.augment.images import Pipeline, named_augment
from vit.data.load.label_reader import Batch, LabelReader
from vit.data.load.loader import Loader, eval_loader, train_loader
from vit.data.load.sampling import balanced_weights
from vit.data.open import open_data as open_source
from vit.data.open import reopen as reopen_source
from vit.data.sets.data import Data
from vit.data.sets.imageset import ImageSet
from vit.images.preprocess import Preprocess
from vit.tasks.classification.probe import trains_head_only
from vit.tasks.facts import Facts
from vit.tasks.run import Built, Run, Seen

if TYPE_CHECKING:
    from vit.tasks.classification.recipe import Recipe
    from vit.tasks.classification.settle import Settled

SHARE = 0.05
"""Classes below this share of a mixed image are not named."""
EXPECTED = "--data DIR (class folders), a manifest, shards, hf:OWNER/NAME or digits"


def open_data(recipe: Recipe) -> Data:
    """The data of a recipe. Raises UserError if it cannot be read."""
    assert recipe.data is not None
    return open_source(recipe.data, kind="labels", seed=recipe.seed, format=recipe.format)


def reopen(record: dict[str, Any] | None, source: str | None = None, *, format: str | None = None) -> Data:
    """The data to evaluate a checkpoint on: the training data with the same splits, or another source."""
    return reopen_source(record, source, kind="labels", format=format)


class Feed:
    """The batches of one process of a run.

    `once`: whether features are computed only once, since the encoder is frozen and its images never change.
    `notes`: notes for the user. `flip`: probability that training mirrors an image.
    """

    def __init__(self, run: Run, built: Built) -> None:
        recipe: Settled = run.recipe
        self.run, self.preprocess = run, built.preprocess
        self.pipeline, self.notes = build_pipeline(recipe, run.facts, built.preprocess)
        self.flip = self.pipeline.augment.flip
        frozen = trains_head_only(built.model)
        random = self.pipeline.random or recipe.mixup > 0 or recipe.cutmix > 0
        self.once = frozen and not random
        if frozen and random:
            self.notes.append(
                "Training images are augmented at random, so the frozen encoder processes them again in every epoch."
            )
        self.cache = None if self.once else run.cache()

    def train(self, step: int) -> Loader[Batch]:
        """The training batches, starting at `step`."""
        recipe, data = self.run.recipe, self.run.data
        mix = Mix(len(data.classes), recipe.mixup, recipe.cutmix) if recipe.mixup or recipe.cutmix else None
        options = self.run.loading(recipe.batch_size, shared=True, cache=self.cache)
        return train_loader(
            LabelReader(data.train, self.preprocess, self.pipeline, seed=recipe.seed, mix=mix),
            replace(options, epochs=recipe.epochs, start_step=step),
            weights=balanced_weights(data.train.targets, len(data.classes)) if recipe.balanced else None,
        )

    def evaluation(self, images: ImageSet, *, shared: bool = False, strict: bool = False) -> Loader[Batch]:
        """Every image once, in order, without augmentation. shared: only this process's share of them. strict: raise
        UserError if too many cannot be read."""
        cache = self.cache if images is self.run.data.val else None  # other splits are read once
        options = self.run.loading(evaluation_batch(self.run.device), shared=shared, cache=cache)
        return eval_loader(LabelReader(images, self.preprocess), replace(options, strict=strict))

    def seen(self, batch: Batch) -> Iterator[Seen]:
        """The images of a training batch, with their labels as text."""
        classes, mixes = self.run.data.classes, self.run.recipe.mixup or self.run.recipe.cutmix
        several = self.run.data.multilabel and not mixes
        for pixels, target in zip(self.preprocess.denormalize(batch.images), batch.targets.numpy(), strict=True):
            yield Seen(pixels, label(target, classes, several), [])


def label(target: np.ndarray, classes: Sequence[str], multilabel: bool) -> str:
    """A target, a class index or one number per class, as text."""
    if target.ndim == 0:
        return classes[int(target)]
    order = [int(k) for k in np.argsort(-target)]
    shares = [(float(target[k]), classes[k]) for k in order if target[k] >= SHARE]
    if multilabel or (len(shares) == 1 and shares[0][0] > 1 - SHARE):
        return ", ".join(name for _, name in shares) or "none"
    return ", ".join(f"{name} {share:.2f}" for share, name in shares)


def evaluation_batch(device: torch.device) -> int:
    """Images per evaluation batch. On a CPU more would take memory and be no faster."""
    return 64 if device.type == "cpu" else 256


def build_pipeline(recipe: Settled, facts: Facts, preprocess: Preprocess) -> tuple[Pipeline, list[str]]:
    """The augmentation of the recipe for this model's input size, and notes for the user."""
    augment, notes = named_augment(recipe.augment), []
    if recipe.flip == "no" or (recipe.flip == "auto" and facts.gray):
        if augment.flip:
            notes.append("Images are not mirrored, since they are grayscale. Use --flip yes to mirror them.")
        augment = replace(augment, flip=0.0)
    elif recipe.flip == "yes":
        augment = replace(augment, flip=0.5)
    return Pipeline(replace(augment, erase=recipe.erase or augment.erase), preprocess), notes
