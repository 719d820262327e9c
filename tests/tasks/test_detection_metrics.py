"""Against pycocotools on the same objects and boxes."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from vit.detector.output import Predictions
from vit.detector.postprocess import Found, find_boxes, suppress
from vit.tasks.detection.curves import best_threshold, confusion, match_image, pooled
from vit.tasks.detection.metrics import Boxes, DetectionMetrics, Truth, coco_boxes, coco_truth

CLASSES = ("a", "b", "c", "never")


def example(seed: int, images: int = 25, crowds: bool = True) -> tuple[list[Truth], list[Boxes]]:
    """Objects, and boxes near them, beside them and on crowds; some images are empty, some have no box."""
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for i in range(images):
        n = 0 if i % 7 == 3 else int(rng.integers(1, 8))
        corner, size = rng.uniform(0, 200, (n, 2)), np.exp(rng.uniform(np.log(8), np.log(180), (n, 2)))
        boxes = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
        labels = rng.integers(0, 3, n)
        crowd = (rng.random(n) < 0.2) & crowds
        area = (size.prod(axis=1) * rng.uniform(0.5, 1, n)).astype(np.float32)
        truths.append(Truth(boxes, labels, crowd, area))
        near = boxes + rng.normal(0, 4, boxes.shape)
        stray = rng.uniform(0, 200, (3, 2))
        every = np.concatenate([near, near[: n // 2], np.concatenate([stray, stray + 40], axis=1)])
        wrong = rng.random(len(every)) < 0.15
        guessed = np.where(wrong, rng.integers(0, 3, len(every)), np.r_[labels, labels[: n // 2], [0, 1, 2]])
        scores = rng.random(len(every)).round(2)  # rounded: some are equal
        if i % 9 == 5:
            every, scores, guessed = every[:0], scores[:0], guessed[:0]
        order = np.argsort(-scores, kind="stable")
        found.append(Boxes(every[order].astype(np.float32), scores[order].astype(np.float32), guessed[order]))
    return truths, found


def metrics_of(truths: list[Truth], found: list[Boxes]) -> DetectionMetrics:
    metrics = DetectionMetrics(CLASSES, (256, 256))
    metrics.truths, metrics.found = truths, found
    return metrics


def reference(truths: list[Truth], found: list[Boxes], capsys: Any) -> np.ndarray:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = copy.deepcopy(coco_truth(truths, CLASSES))
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(coco_boxes(found)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    return evaluation


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_pycocotools(seed: int, capsys: pytest.CaptureFixture[str]):
    truths, found = example(seed)
    evaluation = reference(truths, found, capsys)
    mine = metrics_of(truths, found).compute()
    names = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "ar1", "ar10", "ar100")
    for name, value in zip(names, evaluation.stats[:9], strict=True):
        assert mine[name] == pytest.approx(value, abs=1e-6), name
    for k, name in enumerate(CLASSES):
        table = evaluation.eval["precision"][:, :, k, 0, -1]
        ap = mine["per_class"][name]["ap"]
        assert ap is None if (table == -1).all() else ap == pytest.approx(table[table > -1].mean(), abs=1e-6)
    curve = evaluation.eval["precision"][0, :, 0, 0, -1]
    assert np.allclose(mine["curves"]["precision"][0], curve, atol=1e-6)
    assert mine["curves"]["precision"][3] is None


def test_order_of_images_and_merging_do_not_matter():
    truths, found = example(1)
    # Among boxes of equal score COCO goes by the order of images: no two are equal here.
    rng = np.random.default_rng(1)
    found = [f._replace(scores=np.sort(rng.random(len(f.scores)))[::-1]) for f in found]
    whole = metrics_of(truths, found).scalars()
    order = np.random.default_rng(0).permutation(len(truths))
    shuffled = metrics_of([truths[i] for i in order], [found[i] for i in order]).scalars()
    parts = [metrics_of(truths[r::3], found[r::3]) for r in range(3)]
    merged = parts[0].merged(parts).scalars()
    for name, value in whole.items():
        assert shuffled[name] == pytest.approx(value, abs=1e-9) and merged[name] == pytest.approx(value, abs=1e-9)


def test_all_right_is_one():
    truths, _ = example(2, crowds=False)
    found = [Boxes(t.boxes, np.ones(len(t.labels), np.float32), t.labels) for t in truths]
    result = metrics_of(truths, found).compute()
    assert result["map"] == pytest.approx(1) and result["best_f1"] == pytest.approx(1)
    table = np.array(result["confusion"])
    assert table.sum() == np.trace(table) == result["objects"]


def test_nothing_found_is_zero():
    truths, found = example(0)
    none = [Boxes(f.boxes[:0], f.scores[:0], f.labels[:0]) for f in found]
    result = metrics_of(truths, none).compute()
    assert result["map"] == 0 and result["best_threshold"] is None
    assert np.array(result["confusion"])[:, -1].sum() == result["objects"]


def test_no_object_at_all_is_undefined():
    _, found = example(0)
    empty = Truth(np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, bool), np.empty(0, np.float32))
    result = metrics_of([empty] * len(found), found).compute()
    assert result["map"] is None and result["map50"] is None and result["objects"] == 0
    assert metrics_of([], []).scalars()["map"] is None


def test_best_threshold_is_the_best():
    truths, found = example(3)
    matched = [match_image(t, f) for t, f in zip(truths, found, strict=True)]
    score, f1 = best_threshold(pooled(matched))
    objects = sum(len(m.truths) for m in matched)

    def f1_at(threshold: float) -> float:
        hits = sum(int((m.right & (m.scores >= threshold)).sum()) for m in matched)
        return 2 * hits / (objects + sum(int((m.scores >= threshold).sum()) for m in matched))

    assert f1 == pytest.approx(f1_at(score))
    assert f1 >= max(f1_at(t) for t in np.linspace(0, 1, 101))


def test_confusion_by_hand():
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]], np.float32)
    truth = Truth(boxes, np.array([0, 1, 2]), np.zeros(3, bool), np.full(3, 100.0))
    found = Boxes(
        np.array([[0, 0, 10, 10], [20, 20, 30, 30], [60, 60, 70, 70], [40, 40, 50, 50]], np.float32),
        np.array([0.9, 0.8, 0.7, 0.1], np.float32),
        np.array([0, 2, 1, 2]),
    )
    table = confusion([truth], [found], 3, 0.5)
    wanted = np.zeros((4, 4), int)
    wanted[0, 0] = 1  # right
    wanted[1, 2] = 1  # taken for another class
    wanted[3, 1] = 1  # on nothing
    wanted[2, 3] = 1  # missed, its box is below the threshold
    assert table.tolist() == wanted.tolist()


def test_predictions_that_are_not_finite_are_counted_and_dropped():
    """A NaN box must neither score nor stop the evaluation."""
    logits, boxes = torch.full((1, 4, 2), -2.0), torch.full((1, 4, 4), 0.5)
    logits[0, 0, 0] = 3.0
    logits[0, 1, 1], boxes[0, 2, 0], boxes[0, 3, 3] = torch.nan, torch.nan, torch.inf
    target = {
        "placement": (1.0, 1.0, 0, 0), "original_size": (64, 64), "original_boxes": torch.tensor([[16.0, 16, 48, 48]]),
        "labels": torch.tensor([0]), "crowd": torch.tensor([False]), "area": torch.tensor([1024.0]),
    }  # fmt: skip
    metrics = DetectionMetrics(("a", "b"), (64, 64))
    metrics.update(Predictions(logits, boxes), [target])
    result = metrics.scalars()
    assert result["nonfinite"] == 3 and result["map"] == pytest.approx(1)


def test_boxes_come_back_to_the_image():
    """A letterboxed input: 100 x 50 pixels (w x h) lie at scale .5 in the middle of 60 x 60."""
    boxes = torch.tensor([[[30 / 60, 30 / 60, 50 / 60, 25 / 60], [0.5, 0.1, 0.5, 2.0]]])
    logits = torch.tensor([[[2.0, -9.0], [-9.0, 1.0]]])
    found = find_boxes(Predictions(logits, boxes), (60, 60), [(0.5, 0.5, 5, 17)], [(50, 100)])[0]
    assert torch.allclose(found.xyxy[0], torch.tensor([0.0, 1.0, 100.0, 50.0]), atol=1e-4)
    assert found.labels[:2].tolist() == [0, 1] and found.scores[0] == pytest.approx(torch.tensor(2.0).sigmoid().item())
    assert (found.xyxy >= 0).all() and (found.xyxy[:, 2] <= 100).all() and (found.xyxy[:, 3] <= 50).all()


def test_limit_and_nms():
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.21, 0.2], [0.2, 0.2, 0.1, 0.1]]])
    logits = torch.tensor([[[2.0, -3.0], [1.0, -3.0], [0.5, -3.0]]])

    def labels_of(**options: Any) -> int:
        return len(find_boxes(Predictions(logits, boxes), (10, 10), [(1, 1, 0, 0)], [(10, 10)], **options)[0].scores)

    assert labels_of() == 6
    assert labels_of(limit=2) == 2
    found = find_boxes(Predictions(logits, boxes), (10, 10), [(1, 1, 0, 0)], [(10, 10)])[0]
    # Of two boxes of a class that overlap by more the better one is left, in each class.
    kept = suppress(found, 0.7)
    assert kept.labels.tolist().count(0) == 2 and kept.scores[0] == found.scores[0]
    assert len(suppress(found, 0.99).scores) == 6


def test_found_in_numpy_or_torch():
    metrics = DetectionMetrics(("a",), (8, 8))
    target = {
        "original_boxes": torch.tensor([[1.0, 1, 5, 5]]), "labels": torch.tensor([0]),
        "crowd": torch.tensor([False]), "area": torch.tensor([16.0]),
    }  # fmt: skip
    metrics.add(Found(torch.tensor([[1.0, 1, 5, 5]]), torch.tensor([0.9]), torch.tensor([0]), 0), target)
    assert metrics.scalars()["map50"] == pytest.approx(1)
