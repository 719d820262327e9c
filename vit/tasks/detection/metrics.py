"""COCO's metrics (Lin et al. 2014) with faster-coco-eval; tests compare them with pycocotools.

Letters: K classes, n objects or boxes of one image, T IoU thresholds, R recalls, A area ranges, M limits of boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vit.detector.output import Predictions
from vit.detector.postprocess import Found, find_boxes
from vit.tasks.detection.curves import Matched, best_threshold, confusion, match_image, pooled, pooled_by_class


class Truth(NamedTuple):
    """The objects of one image, as numpy arrays: boxes xyxy [n, 4] in its pixels, labels [n], crowd [n], area [n]."""

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray


class Boxes(NamedTuple):
    """The detections in one image, best first: boxes xyxy [n, 4] in its pixels, scores [n], labels [n]."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class DetectionMetrics:
    """Collects boxes and objects per image. Results do not depend on the image order or batch size. input_size: (H, W)
    of the model's input."""

    def __init__(self, classes: Sequence[str], input_size: tuple[int, int]):
        self.classes, self.input_size = tuple(classes), input_size
        self.truths: list[Truth] = []
        self.found: list[Boxes] = []
        self.dropped = 0

    def update(self, outputs: Predictions | Sequence[Found], targets: Sequence[dict[str, Any]]) -> None:
        """outputs: predictions of a batch, or the boxes of each image. targets: from an evaluation loader."""
        if isinstance(outputs, Predictions):
            placements = [target["placement"] for target in targets]
            sizes = [target["original_size"] for target in targets]
            outputs = find_boxes(outputs, self.input_size, placements, sizes)
        for found, target in zip(outputs, targets, strict=True):
            self.add(found, target)

    def add(self, found: Found, target: dict[str, Any]) -> None:
        """Add one image: boxes in its pixels, and a target with original_boxes, labels, crowd and area."""
        self.dropped += found.dropped
        self.found.append(Boxes(*(_numpy(column) for column in found[:3])))
        columns = (target[name] for name in ("original_boxes", "labels", "crowd", "area"))
        self.truths.append(Truth(*(_numpy(column) for column in columns)))

    def state(self) -> DetectionMetrics:
        """Everything collected so far, to gather over ranks and pass to `merged`."""
        return self

    def merged(self, others: Iterable[DetectionMetrics], order: Sequence[int] | None = None) -> DetectionMetrics:
        """A new metric with the images of all `others` (of every rank, say), in `order`."""
        whole = DetectionMetrics(self.classes, self.input_size)
        for other in others:
            whole.truths += other.truths
            whole.found += other.found
            whole.dropped += other.dropped
        if order is not None:
            whole.truths, whole.found = [whole.truths[i] for i in order], [whole.found[i] for i in order]
        return whole

    def scalars(self) -> dict[str, Any]:
        """n, objects, nonfinite, map, map50, map75, map_small, map_medium, map_large, ar1, ar10, ar100, ar_small,
        ar_medium, ar_large; None if undefined: no object (of that size)."""
        return self._scalars(self._evaluated())

    def compute(self, threshold: float | None = None) -> dict[str, Any]:
        """All of `scalars`, and best_threshold (score of the highest F1 at IoU 0.5 over all classes) with best_f1;
        threshold, the one in use (given, else the best), with precision, recall and f1 there; per_class {name: {ap,
        ap50, objects, precision, recall, threshold: the best of the class}}; confusion (K + 1 rows of K + 1 counts at
        the threshold in use: row = true, column = predicted, the last of both is the background); curves: precision
        at 101 recalls per class at IoU 0.5 (None if undefined) and its class mean at IoU 0.5, 0.75 and over all ten,
        and precision, recall and f1 at 101 thresholds."""
        evaluated = self._evaluated()
        result = self._scalars(evaluated)
        matched = self.matched()
        pool, pools = pooled(matched), pooled_by_class(matched, len(self.classes))
        best, best_f1 = best_threshold(pool)
        used = next(value for value in (threshold, best, 0.5) if value is not None)
        names = ("precision", "recall", "f1")
        result |= {"best_threshold": best, "best_f1": best_f1, "threshold": used}
        result |= dict(zip(names, pool.at(used), strict=True))
        precision = evaluated["precision"] if evaluated is not None else None  # [T, R, K, A, M]
        result["per_class"] = {
            name: {
                "ap": _mean(precision[:, :, k, 0, -1]) if precision is not None else None,
                "ap50": _mean(precision[0, :, k, 0, -1]) if precision is not None else None,
                "objects": pools[k].objects,
                "precision": pools[k].at(used)[0],
                "recall": pools[k].at(used)[1],
                "threshold": best_threshold(pools[k])[0],
            }
            for k, name in enumerate(self.classes)
        }
        result["confusion"] = confusion(self.truths, self.found, len(self.classes), used).tolist()
        at = [pool.at(t) for t in np.linspace(0, 1, 101)]
        result["curves"] = {
            "precision": _curves(precision, len(self.classes)),
            "mean": _mean_curves(precision),
            "threshold": dict(zip(names, (list(column) for column in zip(*at, strict=True)), strict=True)),
        }
        return result

    def matched(self) -> list[Matched]:
        """The matching of each image."""
        return [match_image(t, f) for t, f in zip(self.truths, self.found, strict=True)]

    def _scalars(self, evaluated: dict[str, np.ndarray] | None) -> dict[str, Any]:
        precision = evaluated["precision"] if evaluated is not None else None  # [T, R, K, A, M]
        recall = evaluated["recall"] if evaluated is not None else None  # [T, K, A, M]
        result: dict[str, Any] = {
            "n": len(self.truths),
            "objects": int(sum((~truth.crowd).sum() for truth in self.truths)),
            "nonfinite": self.dropped,
        }
        for name, part in (
            ("map", (slice(None), slice(None), slice(None), 0, 2)),
            ("map50", (0, slice(None), slice(None), 0, 2)),
            ("map75", (5, slice(None), slice(None), 0, 2)),
            ("map_small", (slice(None), slice(None), slice(None), 1, 2)),
            ("map_medium", (slice(None), slice(None), slice(None), 2, 2)),
            ("map_large", (slice(None), slice(None), slice(None), 3, 2)),
        ):
            result[name] = None if precision is None else _mean(precision[part])
        for name, a, m in (
            ("ar1", 0, 0), ("ar10", 0, 1), ("ar100", 0, 2), ("ar_small", 1, 2), ("ar_medium", 2, 2), ("ar_large", 3, 2),
        ):  # fmt: skip
            result[name] = None if recall is None else _mean(recall[:, :, a, m])
        return result

    def _evaluated(self) -> dict[str, np.ndarray] | None:
        """COCO's precision and recall tables; None without any object, when every metric is undefined."""
        from faster_coco_eval import COCO
        from faster_coco_eval.core.faster_eval_api import COCOeval_faster

        if not any((~truth.crowd).any() for truth in self.truths):
            return None
        truth = COCO(coco_truth(self.truths, self.classes))
        boxes = truth.loadRes(coco_boxes(self.found))
        evaluation = COCOeval_faster(truth, boxes, "bbox", print_function=lambda *_: None)
        evaluation.evaluate()
        evaluation.accumulate()
        tables: Any = evaluation.eval
        return {name: np.asarray(tables[name]) for name in ("precision", "recall")}


def coco_truth(truths: Sequence[Truth], classes: Sequence[str]) -> dict[str, Any]:
    """COCO's annotation format. Ids start at 1: COCO's evaluation counts an object with annotation id 0 as missed."""
    annotations = []
    for i, truth in enumerate(truths, 1):
        for box, label, crowd, area in zip(*(column.tolist() for column in truth), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": int(label) + 1,
                    "bbox": _xywh(box),
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    return {
        "images": [{"id": i} for i in range(1, len(truths) + 1)],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes, 1)],
    }


def coco_boxes(found: Sequence[Boxes]) -> list[dict[str, Any]]:
    """COCO's result format, with the ids of `coco_truth`."""
    return [
        {"image_id": i, "category_id": int(label) + 1, "bbox": _xywh(box), "score": score}
        for i, boxes in enumerate(found, 1)
        for box, score, label in zip(*(column.tolist() for column in boxes), strict=True)
    ]


def _xywh(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _mean(values: np.ndarray) -> float | None:
    """The mean without COCO's -1, which marks undefined values; None if all are."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _curves(precision: np.ndarray | None, classes: int) -> list[list[float] | None]:
    if precision is None:
        return [None] * classes
    table = precision[0, :, :, 0, -1]  # [R, K]
    return [None if table[0, k] < 0 else table[:, k].tolist() for k in range(classes)]


def _mean_curves(precision: np.ndarray | None) -> dict[str, list[float] | None]:
    """Means over the classes with objects."""
    if precision is None:
        return dict.fromkeys(("map50", "map75", "map"))
    table = precision[:, :, :, 0, -1]  # [T, R, K]
    table = table[:, :, table[0, 0] > -1]
    return {"map50": table[0].mean(1).tolist(), "map75": table[5].mean(1).tolist(), "map": table.mean((0, 2)).tolist()}


def _numpy(values: Tensor | np.ndarray) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
