"""COCO's figures of a detector (Lin et al. 2014), with faster-coco-eval; tests hold them against pycocotools.

Letters: K classes, n objects or boxes of one image, T IoU thresholds, R recalls, A area ranges, M limits of boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vit.detection_curves import Matched, best_threshold, confusion, match_image
from vit.detection_losses import Predictions
from vit.detector.postprocess import Found, find_boxes


class Truth(NamedTuple):
    """The objects of one image, as numpy arrays: boxes xyxy [n, 4] in its pixels, labels [n], crowd [n], area [n]."""

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray


class Boxes(NamedTuple):
    """What was found in one image, best first: boxes xyxy [n, 4] in its pixels, scores [n], labels [n]."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class DetectionMetrics:
    """Collects boxes and objects, image by image.

    input_size: (H, W) of the model's input. Nothing a figure is computed from depends on the order of images or on the
    size of a batch.
    """

    def __init__(self, classes: Sequence[str], input_size: tuple[int, int]):
        self.classes, self.input_size = tuple(classes), input_size
        self.truths: list[Truth] = []
        self.found: list[Boxes] = []
        self.dropped = 0

    def update(self, predictions: Predictions, targets: Sequence[dict[str, Any]]) -> None:
        """predictions of a batch, and its targets as `datasets.box_loader` gives them for evaluation."""
        placements = [target["placement"] for target in targets]
        sizes = [target["original_size"] for target in targets]
        for found, target in zip(find_boxes(predictions, self.input_size, placements, sizes), targets, strict=True):
            self.add(found, target)

    def add(self, found: Found, target: dict[str, Any]) -> None:
        """One image: boxes in its pixels, and a target with original_boxes, labels, crowd and area."""
        self.dropped += found.dropped
        self.found.append(Boxes(*(_numpy(column) for column in found[:3])))
        columns = (target[name] for name in ("original_boxes", "labels", "crowd", "area"))
        self.truths.append(Truth(*(_numpy(column) for column in columns)))

    def merged(self, others: Iterable[DetectionMetrics]) -> DetectionMetrics:
        """A new metric with the images of all `others` (of every rank, say)."""
        whole = DetectionMetrics(self.classes, self.input_size)
        for other in others:
            whole.truths += other.truths
            whole.found += other.found
            whole.dropped += other.dropped
        return whole

    def scalars(self) -> dict[str, Any]:
        """n, objects, nonfinite, map, map50, map75, map_small, map_medium, map_large, ar1, ar10, ar100; None where
        undefined: no object (of that size) at all."""
        return self._scalars(self._evaluated())

    def compute(self) -> dict[str, Any]:
        """All of `scalars`, and per_class {name: {ap, ap50, objects, threshold}}, best_threshold (score of the
        highest F1 at IoU 0.5 over all classes) with best_f1, confusion (K + 1 rows of K + 1 counts at that threshold:
        row = true, column = predicted, the last of both is the background), curves {precision: K lists of 101 at IoU
        0.5, None where undefined}."""
        evaluated = self._evaluated()
        result = self._scalars(evaluated)
        precision = evaluated["precision"] if evaluated is not None else None  # [T, R, K, A, M]
        matched = self._matched()
        score, f1 = best_threshold(matched)
        objects = np.zeros(len(self.classes), np.int64)
        for truth in self.truths:
            objects += np.bincount(truth.labels[~truth.crowd].astype(np.int64), minlength=len(self.classes))
        result["per_class"] = {
            name: {
                "ap": _mean(precision[:, :, k, 0, -1]) if precision is not None else None,
                "ap50": _mean(precision[0, :, k, 0, -1]) if precision is not None else None,
                "objects": int(objects[k]),
                "threshold": best_threshold([m.of_class(k) for m in matched])[0],
            }
            for k, name in enumerate(self.classes)
        }
        result |= {"best_threshold": score, "best_f1": f1}
        result["confusion"] = confusion(
            self.truths, self.found, len(self.classes), 0.5 if score is None else score
        ).tolist()
        result["curves"] = {
            "precision": [
                None if precision is None or precision[0, 0, k, 0, -1] < 0 else precision[0, :, k, 0, -1].tolist()
                for k in range(len(self.classes))
            ]
        }
        return result

    def _matched(self) -> list[Matched]:
        return [match_image(truth, found) for truth, found in zip(self.truths, self.found, strict=True)]

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
        for name, m in (("ar1", 0), ("ar10", 1), ("ar100", 2)):
            result[name] = None if recall is None else _mean(recall[:, :, 0, m])
        return result

    def _evaluated(self) -> dict[str, np.ndarray] | None:
        """COCO's precision and recall tables; None without any object, where every figure is undefined."""
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
    """COCO's form. Images, categories and annotations are numbered from 1: with an annotation id of 0, COCO's
    evaluation takes a found object for a missed one."""
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
    """COCO's form of results, numbered as `coco_truth` does."""
    return [
        {"image_id": i, "category_id": int(label) + 1, "bbox": _xywh(box), "score": score}
        for i, boxes in enumerate(found, 1)
        for box, score, label in zip(*(column.tolist() for column in boxes), strict=True)
    ]


def _xywh(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _mean(values: np.ndarray) -> float | None:
    """COCO marks what is undefined by -1: it is left out, and nothing at all is None, never a score."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _numpy(values: Tensor | np.ndarray) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
