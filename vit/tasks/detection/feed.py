"""The data of a detection recipe, and the batches of a run for training and evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vit.data.augment.boxes import BoxPipeline, named_box_augment
from vit.data.augment.multiscale import MultiScale
from vit.data.load.box_reader import BoxBatch, BoxReader
from vit.data.load.loader import Loader, eval_loader, train_loader
from vit.data.load.sampling import repeat_factors
from vit.data.open import open_data as open_source
from vit.data.open import reopen as reopen_source
from vit.data.sets.data import DetectionData
from vit.detector.boxes import to_xyxy
from vit.images.draw import Mark, color_of
from vit.images.preprocess import Preprocess
from vit.tasks.run import Built, Run, Seen

if TYPE_CHECKING:
    from vit.tasks.detection.recipe import Recipe
    from vit.tasks.detection.settle import Settled

EXPECTED = "--data DIR (COCO, YOLO, Pascal VOC, CSV, ...), or scenes"


def open_data(recipe: Recipe) -> DetectionData:
    """The data of a recipe. Raises UserError if it cannot be read."""
    assert recipe.data is not None
    return open_source(recipe.data, kind="boxes", seed=recipe.seed, format=recipe.format)


def reopen(record: dict[str, Any] | None, source: str | None = None, *, format: str | None = None) -> DetectionData:
    """The data to evaluate a checkpoint on: the training data with the same splits, or another source."""
    return reopen_source(record, source, kind="boxes", format=format)


class Feed:
    """The batches of one process of a run. `once`: whether features are computed only once; never here. `notes`: notes
    for the user. `flip`: probability that training mirrors an image."""

    once = False

    def __init__(self, run: Run, built: Built) -> None:
        recipe: Settled = run.recipe
        model: Any = built.model
        self.run, self.preprocess = run, built.preprocess
        self.pipeline = build_pipeline(recipe, built.preprocess)
        self.flip = self.pipeline.augment.flip
        self.notes = crowded(run.data, model.config.queries)
        self.scales = self.repeats = None
        if recipe.multi_scale:
            self.scales = MultiScale(self.preprocess.size, model.config.divisor, recipe.multi_scale, recipe.seed)
            sizes = ", ".join(f"{w}x{h}" for h, w in self.scales.sizes)
            self.notes.append(f"The input size changes at every step: {sizes} pixels.")
        if recipe.balanced:
            self.repeats, note = repeated(run.data)
            self.notes.append(note)
        self.cache = run.cache()

    def train(self, step: int) -> Loader[BoxBatch]:
        """The training batches, starting at `step`."""
        recipe, data = self.run.recipe, self.run.data
        options = self.run.loading(recipe.batch_size, shared=True, cache=self.cache)
        unmixed = recipe.close_mosaic
        return train_loader(
            BoxReader(
                data.train, self.preprocess, self.pipeline, seed=recipe.seed, scales=self.scales, unmixed=unmixed
            ),
            replace(options, epochs=recipe.epochs, start_step=step),
            repeats=self.repeats,
            log=print,
        )

    def evaluation(self, images: Any, *, shared: bool = False, strict: bool = False) -> Loader[BoxBatch]:
        """Every image once, in order, without augmentation. shared: only this process's share of them. strict: raise
        UserError if too many cannot be read."""
        cache = self.cache if images is self.run.data.val else None  # other splits are read once
        options = self.run.loading(evaluation_batch(self.run.device), shared=shared, cache=cache)
        return eval_loader(BoxReader(images, self.preprocess), replace(options, strict=strict))

    def seen(self, batch: BoxBatch) -> Iterator[Seen]:
        """The images of a training batch, with their boxes."""
        classes = self.run.data.classes
        for pixels, target in zip(self.preprocess.denormalize(batch.images), batch.targets, strict=True):
            height, width = pixels.shape[:2]
            boxes = to_xyxy(target["boxes"]).numpy() * [width, height, width, height]
            rows = zip(boxes.tolist(), target["labels"].tolist(), target["crowd"].tolist(), strict=True)
            marks = [Mark(box, classes[k] + " (crowd)" * crowd, color_of(k), crowd) for box, k, crowd in rows]
            yield Seen(pixels, f"{len(marks)} box{'es' * (len(marks) != 1)}", marks)


def evaluation_batch(device: torch.device) -> int:
    """Images per evaluation batch."""
    return 32


def build_pipeline(recipe: Settled, preprocess: Preprocess) -> BoxPipeline:
    """The augmentation of the recipe for this model's input size."""
    augment = named_box_augment(recipe.augment)
    if recipe.flip == "no" or (recipe.flip == "auto" and recipe.data == "scenes"):
        augment = replace(augment, flip=0.0)
    elif recipe.flip == "yes":
        augment = replace(augment, flip=0.5)
    return BoxPipeline(augment, preprocess)


def crowded(data: DetectionData, queries: int) -> list[str]:
    """A warning if images have more objects than the detector has queries."""
    objects = data.train.objects()
    most = objects.max(initial=0)
    if most <= queries:
        return []
    share = (objects > queries).mean()
    return [
        f"Warning: {share:.1%} of the training images have more than {queries} objects, up to {most}; the detector "
        f"finds at most {queries}. Add --queries {most}."
    ]


def repeated(data: DetectionData) -> tuple[np.ndarray, str]:
    """How often each training image occurs in an epoch (repeat-factor sampling), and a note for the user."""
    n = len(data.train)
    images, labels = data.train.labeled()
    repeats = repeat_factors(images, labels, n, len(data.classes))
    length = math.ceil(repeats.sum())
    return repeats, (
        f"Images with rare classes repeat up to {repeats.max():.1f} times: an epoch has {length:,} images, not {n:,}."
    )
