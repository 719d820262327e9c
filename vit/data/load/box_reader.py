"""Batches of images with boxes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch

from vit.data.augment.boxes import Augmented, BoxAugment, BoxPipeline, placed
from vit.data.augment.canvas import VISIBLE
from vit.data.augment.multiscale import MultiScale
from vit.data.load.reader import Reader, Sample, Shipped, Step
from vit.data.load.sampling import Draw, derive_seed
from vit.data.sets.boxset import BoxSet
from vit.images.preprocess import Preprocess

if TYPE_CHECKING:
    from vit.data.load.pixel_cache import PixelCache


class BoxBatch(NamedTuple):
    """images float32 [B, 3, H, W], normalized, on the device; targets, one dict per image, on the CPU; index int64 [B].

    A target: `boxes` float32 [n, 4] (cxcywh as shares of the input), `labels` int64 [n], `crowd` bool [n], `image_id`,
    `original_size` (H, W). In evaluation also `placement` (scale_x, scale_y, left, top), so that x of the input is x
    of the image * scale_x + left, `original_boxes` float32 [n, 4] (xyxy in pixels of the image) and `area` float32 [n].
    """

    images: torch.Tensor
    targets: list[dict[str, Any]]
    index: torch.Tensor


class BoxReader(Reader[BoxBatch]):
    """pipeline: training augmentation; None for evaluation. scales: image size of each step; `preprocess.size` if None.
    unmixed: final share of the run without mixing.

    Raises UserError for a preprocessing that crops the image.
    """

    unusable = "cannot be used"

    def __init__(
        self,
        images: BoxSet,
        preprocess: Preprocess,
        pipeline: BoxPipeline | None = None,
        *,
        seed: int = 0,
        scales: MultiScale | None = None,
        unmixed: float = 0.0,
    ) -> None:
        preprocess.placement(preprocess.size)  # refuses "crop" here, or each image would be reported as faulty
        super().__init__(images, preprocess, training=pipeline is not None, seed=seed)
        self.pipeline, self.scales, self.unmixed = pipeline, scales, unmixed

    def cached(self, cache: PixelCache) -> Self:
        # Exactly as in evaluation only if no augmentation changes their size.
        exact = self.pipeline is None or (self.pipeline.augment == BoxAugment() and self.scales is None)
        other = copy.copy(self)
        other.images = cache.of_boxes(self.images, self.preprocess, exact=exact)
        return other

    def sample(self, draw: Draw, step: Step) -> Sample:
        if self.pipeline is None:
            return self._evaluated(draw)
        size = self.preprocess.size if self.scales is None else self.scales.at(step.number)
        pipeline = self.pipeline.at(size, step.number < round(step.steps * (1 - self.unmixed)))
        done = pipeline.read(self.images, draw.index, derive_seed(self.seed, *draw))
        target = self._target(done, draw, pipeline.preprocess.size)
        return Sample(done.pixels, target, done.bad, {"kept": len(target["labels"]), "dropped": done.dropped})

    def batch(self, shipped: Shipped, key: tuple[int, int], device: torch.device) -> BoxBatch:
        images = self.preprocess.tensor(shipped.pixels.to(device, non_blocking=True))
        return BoxBatch(images, shipped.targets, shipped.index)

    def summary(self, counts: Mapping[str, int]) -> str:
        dropped, all_boxes = counts.get("dropped", 0), counts.get("dropped", 0) + counts.get("kept", 0)
        if not dropped:
            return ""
        return (
            f"Augmentation: of {all_boxes:,} boxes in an epoch {dropped:,} ({dropped / all_boxes:.1%}) were cut to "
            f"less than {VISIBLE:.0%} of their area and left out."
        )

    def _target(self, done: Augmented, draw: Draw, size: tuple[int, int]) -> dict[str, Any]:
        labels, crowd = np.empty(len(done.rows), np.int64), np.empty(len(done.rows), bool)
        for owner in np.unique(done.owners).tolist():
            truth, mine = self.images.annotation(owner), done.owners == owner
            labels[mine], crowd[mine] = truth.labels[done.rows[mine]], truth.crowd[done.rows[mine]]
        return {
            "boxes": _shares(done.boxes, size),
            "labels": torch.from_numpy(labels),
            "crowd": torch.from_numpy(crowd),
            "image_id": self.images.image_id(draw.index),
            "original_size": done.original_size,
        }

    def _evaluated(self, draw: Draw) -> Sample:
        image, _, size = self.images.whole(draw.index)
        truth = self.images.annotation(draw.index)
        target = {
            "boxes": _shares(placed(truth.boxes, self.preprocess, size), self.preprocess.size),
            "labels": torch.from_numpy(truth.labels),
            "crowd": torch.from_numpy(truth.crowd),
            "image_id": self.images.image_id(draw.index),
            "original_size": size,
            "placement": tuple(self.preprocess.placement(size)),
            "original_boxes": torch.from_numpy(truth.boxes),
            "area": torch.from_numpy(truth.area),
        }
        return Sample(self.preprocess.pixels(image), target)


def _shares(boxes: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """xyxy in pixels of an input of (H, W) -> cxcywh as shares of its sides."""
    height, width = size
    xyxy = boxes / np.array([width, height, width, height], np.float32)
    center, extent = (xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]
    return torch.from_numpy(np.concatenate([center, extent], axis=1).astype(np.float32))
