"""Predict boxes in images. The checkpoint is enough: it includes classes and preprocessing.

    predictor = vit.load("runs/scenes")
    for box in predictor.predict("street.jpg"):
        print(box.name, box.score, box.xyxy)
    predictor.predict(["a.png", "b.jpg"])     # a list in, a list out, in batches

Letters: n boxes of one image, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vit.detector import Detector
from vit.detector.postprocess import LIMIT, Found
from vit.errors import UserError, nearest, shown
from vit.predict.predictor import Streaming, pick_device
from vit.pretrained.load_detector import load_detector
from vit.tasks.detection.detections import Detections
from vit.tasks.detection.scan.options import Scan
from vit.tasks.detection.scan.scanner import Scanner

OPTIONS = ("threshold", "limit", "scan", "draw")
"""The options of `vit.load` that `load` takes, and draw: predictions can be drawn."""
THRESHOLD = 0.5
"""For checkpoints without one: from other projects, or from runs without validation objects."""

Threshold = float | Mapping[str, float] | Literal["per-class"] | None


class DetectionPredictor(Streaming[Any, Detections]):
    """A detector in evaluation mode with its classes and preprocessing.

    Args:
        model: the detector.
        config: the checkpoint's `config.json`.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps".
        threshold: the minimum score of a box. None: the checkpoint's own, with the highest F1 over all classes on
            validation; a number: for all classes; {class: number}: for these classes, the checkpoint's own for others;
            "per-class": the threshold with the highest F1 of each class with enough validation objects.
        limit: maximum number of boxes per image; the best are kept.
        scan: tiles, several views and non-maximum suppression; see `Scan`.
    """

    def __init__(
        self,
        model: Detector,
        config: dict[str, Any],
        *,
        device: str = "auto",
        threshold: Threshold = None,
        limit: int = LIMIT,
        scan: Scan | None = None,
    ):
        if limit < 1:
            raise UserError(f"limit, the maximum number of boxes per image, must be at least 1, got {limit}.")
        self.device = pick_device(device)
        self.model = model.eval().to(self.device)
        self.config = config
        self.classes: tuple[str, ...] = tuple(config["classes"])
        self.category_ids: tuple[int, ...] = tuple(config.get("category_ids") or range(len(self.classes)))
        self.thresholds = thresholds_of(config, threshold)
        self.limit = limit
        self.scanner = Scanner(model, config, scan or Scan(), limit=max(limit, LIMIT))

    def prepare(self, image: np.ndarray) -> Any:
        return self.scanner.prepare(image)

    def answer(self, prepared: list[Any], sources: list[Any]) -> list[Detections]:
        found = self.scanner.finish(prepared)
        sizes = [item.size for item in prepared]
        return [self._detections(*each) for each in zip(found, sizes, sources, strict=True)]

    def _detections(self, found: Found, size: tuple[int, int], source: Any) -> Detections:
        if found.dropped and not len(found.scores):
            name = str(source) if isinstance(source, str | Path) else "the image"
            raise UserError(
                f"The model outputs NaN or infinite boxes for {name}: its weights are damaged or training diverged. "
                "Load an earlier checkpoint."
            )
        found = found.take(found.scores >= torch.from_numpy(self.thresholds).to(found.scores.device)[found.labels])
        found = found.take(slice(self.limit))
        xyxy, scores, labels = (column.cpu().numpy() for column in found[:3])
        return Detections(xyxy, scores, labels, size, self.classes, self.category_ids, source)


def load(
    checkpoint: str | Path,
    *,
    device: str = "auto",
    threshold: Threshold = None,
    limit: int | None = None,
    scan: Scan | None = None,
) -> DetectionPredictor:
    """Load a detector for `vit.load`."""
    model, config = load_detector(checkpoint)
    return DetectionPredictor(
        model, config, device=device, threshold=threshold, limit=LIMIT if limit is None else limit, scan=scan
    )


def thresholds_of(config: dict[str, Any], threshold: Threshold = None) -> np.ndarray:
    """The minimum score of each class, float32 [K]. Raises UserError for an unknown class, a number outside 0..1, and
    "per-class" if the checkpoint stores no thresholds by class."""
    classes: Sequence[str] = config["classes"]
    own = config.get("threshold")
    result = dict.fromkeys(classes, THRESHOLD if own is None else own)
    if threshold == "per-class":
        if not config.get("class_thresholds"):
            raise UserError("The checkpoint stores no thresholds by class. Give a number, or {class: number}.")
        result |= config["class_thresholds"]
    elif isinstance(threshold, Mapping):
        unknown = [name for name in threshold if name not in result]
        if unknown:
            raise UserError(
                f"There is no class {unknown[0]!r} to set a threshold for.{nearest(str(unknown[0]), classes)} "
                f"Classes: {shown(classes)}."
            )
        result |= threshold
    elif isinstance(threshold, str):
        raise UserError(f'threshold must be a number, {{class: number}} or "per-class", got {threshold!r}.')
    elif threshold is not None:
        result = dict.fromkeys(classes, threshold)
    wrong = [f"{name} {value}" for name, value in result.items() if not 0 <= value <= 1]
    if wrong:
        raise UserError(f"Thresholds must be in 0..1, got {shown(wrong, 3)}.")
    return np.array([result[name] for name in classes], np.float32)
