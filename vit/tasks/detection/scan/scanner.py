"""Run a detector on images as a `Scan` says, for prediction and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vit.detector.model import Detector
from vit.detector.postprocess import LIMIT, Found, find_boxes, suppress
from vit.images.preprocess import Preprocess
from vit.tasks.detection.scan.options import Scan
from vit.tasks.detection.scan.tiles import stitch, windows_of
from vit.tasks.detection.scan.views import View, fuse, seen, unseen, views_of

BATCH_SIZE = 32


class Prepared(NamedTuple):
    size: tuple[int, int]
    """(H, W) of the image."""
    content: Any
    """Its pixels at the model's input size, uint8 [h, w, 3]; with tiles, its boxes."""


class Scanner:
    """A detector in evaluation mode with its preprocessing: pixels -> boxes.

    config: the checkpoint's `config.json`. limit: maximum number of boxes per image.
    """

    def __init__(self, model: Detector, config: dict[str, Any], scan: Scan, *, limit: int = LIMIT) -> None:
        self.model, self.scan, self.limit = model, scan, limit
        self.preprocess = Preprocess.from_dict(config["preprocess"])
        flip = config.get("augment", {}).get("flip", 0) > 0 if scan.flip is None else scan.flip
        size = self.preprocess.size
        self.views = views_of(size, model.config.divisor, flip) if scan.tta else [View(size, False)]

    def inputs(
        self, images: Tensor, placements: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int]]
    ) -> list[Found]:
        """Normalized images float32 [B, 3, H, W] at the input size, on the model's device, with their placements in it
        (`Preprocess.placement`) and original sizes (H, W) -> boxes of each in its own pixels."""
        return [self._finished(found) for found in self._seen(images, placements, sizes)]

    def prepare(self, image: np.ndarray) -> Prepared:
        """uint8 [H, W, 3] -> input of `finish`. With tiles, detection runs here, since the image may be large."""
        size = (image.shape[0], image.shape[1])
        if self.scan.tile is not None:
            return Prepared(size, self._tiled(image, self.scan.tile))
        return Prepared(size, self.preprocess.pixels(image))

    def finish(self, images: Sequence[Prepared]) -> list[Found]:
        """Boxes of each image, in its pixels."""
        contents, sizes = [image.content for image in images], [image.size for image in images]
        found = contents if self.scan.tile is not None else self._look(contents, sizes)
        return [self._finished(boxes) for boxes in found]

    def _tiled(self, image: np.ndarray, tile: int) -> Found:
        """The whole image and its tiles, without non-maximum suppression."""
        size = (image.shape[0], image.shape[1])
        windows = windows_of(size, tile, self.scan.overlap)
        found: list[Found] = []
        for first in range(0, len(windows), BATCH_SIZE):
            part = windows[first : first + BATCH_SIZE]
            pixels = [self.preprocess.pixels(image[top:bottom, left:right]) for left, top, right, bottom in part]
            boxes = self._look(pixels, [(bottom - top, right - left) for left, top, right, bottom in part])
            for each, (left, top, _, _) in zip(boxes, part, strict=True):
                found.append(each._replace(xyxy=each.xyxy + each.xyxy.new_tensor([left, top, left, top])))
        return stitch(found, windows, size) if len(found) > 1 else found[0]

    def _look(self, pixels: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]) -> list[Found]:
        """pixels: uint8 [h, w, 3] at the input size; sizes: (H, W) of the images."""
        device = next(self.model.parameters()).device
        images = self.preprocess.tensor(torch.from_numpy(np.stack(pixels)).to(device))
        return self._seen(images, [self.preprocess.placement(size) for size in sizes], sizes)

    @torch.no_grad()
    def _seen(
        self, images: Tensor, placements: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int]]
    ) -> list[Found]:
        def once(view: View) -> list[Found]:
            predictions = unseen(self.model(seen(images, view)).last, view)
            return find_boxes(predictions, self.preprocess.size, placements, sizes, limit=self.limit)

        passes = [once(view) for view in self.views]
        return passes[0] if len(passes) == 1 else [fuse(found) for found in zip(*passes, strict=True)]

    def _finished(self, found: Found) -> Found:
        if self.scan.nms is not None:
            found = suppress(found, self.scan.nms)
        return found.take(slice(self.limit))
