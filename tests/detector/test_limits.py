"""Odd data goes all the way: loader, targets, loss, one update of the weights, evaluation, figures."""

import time

import numpy as np
import pytest
import torch

from vit.data.augment.boxes import BOX_AUGMENTS, BoxPipeline
from vit.data.load.box_reader import BoxReader
from vit.data.load.loader import LoaderOptions, eval_loader, train_loader
from vit.data.sets.boxset import Annotation
from vit.data.sets.imageset import ImageSet
from vit.detector import Detector, DetectorConfig
from vit.detector.postprocess import Found
from vit.images.preprocess import Preprocess
from vit.model.config import EncoderConfig
from vit.optim.schedule import Loop
from vit.tasks.detection.loss import DetectionLoss
from vit.tasks.detection.metrics import Boxes, DetectionMetrics, Truth
from vit.tasks.detection.scan.tiles import stitch, windows_of
from vit.tasks.detection.task import Detection
from vit.tasks.evaluation import evaluate
from vit.training.engine import train_step

SIDE = 96


class Set(ImageSet):
    """Four images of SIDE x SIDE with the same boxes."""

    def __init__(self, classes: int, boxes: np.ndarray, labels: np.ndarray) -> None:
        super().__init__([f"class {k}" for k in range(classes)], np.full(4, len(boxes), np.int64))
        self.boxes, self.labels = boxes.astype(np.float32).reshape(-1, 4), labels.astype(np.int64)

    def name(self, i: int) -> str:
        return f"image {i}"

    def image_id(self, i: int) -> int:
        return i

    def read(self, i: int) -> np.ndarray:
        return np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), np.uint8)

    def annotation(self, i: int) -> Annotation:
        n = len(self.labels)
        size = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(axis=1)
        return Annotation(self.boxes, self.labels, np.zeros(n, bool), size)

    def select(self, indices: np.ndarray) -> "Set":
        raise NotImplementedError


def grid(count: int, side: float) -> np.ndarray:
    """Boxes of `side` in rows, the first and the last in a corner of the image."""
    across = int(np.ceil(np.sqrt(count)))
    corner = np.stack(np.meshgrid(*[np.linspace(0, SIDE - side, across)] * 2), axis=-1).reshape(-1, 2)
    return np.concatenate([corner, corner + side], axis=1)[np.r_[: count - 1, -1]] if count else np.empty((0, 4))


CASES = {
    "one-pixel boxes": (3, grid(9, 1), np.arange(9) % 3),
    "2,000 boxes": (3, grid(2000, 2), np.arange(2000) % 3),
    "one class": (1, grid(4, 20), np.zeros(4)),
    "1,000 classes": (1000, grid(4, 20), np.array([0, 1, 998, 999])),
    "no boxes": (3, grid(0, 1), np.zeros(0)),
    "boxes as large as the image": (2, np.array([[0, 0, SIDE, SIDE]] * 3), np.array([0, 0, 1])),
}


@pytest.mark.parametrize("augment", ["light", "lsj"])
@pytest.mark.parametrize("case", CASES)
def test_trains_and_evaluates(case: str, augment: str):
    classes, boxes, labels = CASES[case]
    images, preprocess = Set(classes, boxes, labels), Preprocess((64, 64), resize="letterbox")
    encoder = EncoderConfig(32, 1, 2, 64, patch_size=8, image_size=(64, 64), class_token=False, final_norm=False)
    torch.manual_seed(0)
    model = Detector(
        DetectorConfig(
            encoder, num_classes=classes, taps=(1,), neck_blocks=1, width=32, layers=2, heads=2, sampling_heads=2,
            points=2, mlp=64, queries=12, groups=2,
        )
    )  # fmt: skip
    task = Detection(model, images.classes, DetectionLoss(classes), (64, 64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for batch in train_loader(
        BoxReader(images, preprocess, BoxPipeline(BOX_AUGMENTS[augment], preprocess)),
        LoaderOptions(batch_size=2, epochs=1),
    ):
        assert train_step(task, batch, [optimizer], Loop(2, 2, clip=0.1)).isfinite()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    batches = eval_loader(BoxReader(images, preprocess), LoaderOptions(batch_size=2))
    result = evaluate(model, lambda batch: task.predict(batch.images), batches, task.metrics())[0].compute()
    assert result["n"] == 4 and result["objects"] == 4 * len(labels) and result["nonfinite"] == 0
    assert (result["map"] is None) == (len(labels) == 0)


@pytest.mark.parametrize("case", ["one-pixel boxes", "one class", "1,000 classes", "boxes as large as the image"])
def test_the_truth_is_found(case: str):
    """Boxes that are exactly right score 1, however small they are, and come back exactly from the model's input."""
    classes, boxes, labels = CASES[case]
    preprocess = Preprocess((64, 64), resize="letterbox")
    metrics = DetectionMetrics([str(k) for k in range(classes)], (64, 64))
    for batch in eval_loader(BoxReader(Set(classes, boxes, labels), preprocess), LoaderOptions(batch_size=4)):
        for target in batch.targets:
            scores = torch.linspace(1, 0.5, len(labels))
            metrics.add(Found(target["original_boxes"], scores, target["labels"], 0), target)
            scale, shift = (
                torch.tensor(target["placement"][:2]).repeat(2),
                torch.tensor(target["placement"][2:]).repeat(2),
            )
            center, size = (target["boxes"] * 64).split(2, dim=1)
            back = (torch.cat([center - size / 2, center + size / 2], dim=1) - shift) / scale
            assert (back - target["original_boxes"]).abs().max() < 1e-4
    result = metrics.compute()
    assert result["map"] == pytest.approx(1) and result["best_f1"] == pytest.approx(1)


def test_two_thousand_objects_are_counted_in_no_time():
    """As many objects and boxes as no COCO image has: the figures are right, and take seconds, not minutes."""
    boxes, labels = grid(2000, 2).astype(np.float32), (np.arange(2000) % 3).astype(np.int64)
    metrics = DetectionMetrics(("a", "b", "c"), (64, 64))
    begun = time.process_time()
    for _ in range(3):
        metrics.truths.append(Truth(boxes, labels, np.zeros(2000, bool), np.full(2000, 4.0, np.float32)))
        metrics.found.append(Boxes(boxes, np.linspace(1, 0.5, 2000, dtype=np.float32), labels))
    result = metrics.compute()
    assert time.process_time() - begun < 10
    # COCO looks at the best 100 boxes of a class in an image; precision, recall and the table at all of them.
    assert result["ar100"] == pytest.approx(100 / 667, abs=1e-3)
    assert result["recall"] == 1 and np.trace(result["confusion"]) == 6000


def test_two_thousand_boxes_are_stitched_in_no_time():
    rng = np.random.default_rng(0)
    windows = windows_of((2000, 2000), 640, 0.2)
    found = []
    for left, top, *_ in windows:
        corner = rng.uniform(0, 600, (300, 2)).astype(np.float32) + np.array([left, top], np.float32)
        boxes = torch.from_numpy(np.concatenate([corner, corner + 20], axis=1))
        found.append(Found(boxes, torch.linspace(1, 0.01, 300), torch.zeros(300, dtype=torch.int64), 0))
    begun = time.process_time()
    assert len(stitch(found, windows, (2000, 2000)).scores) > 1000
    assert time.process_time() - begun < 5
