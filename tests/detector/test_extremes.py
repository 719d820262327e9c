"""Targets at the edge of what there is: none, thousands, one class, a thousand, boxes of a pixel and of everything."""

import math
from typing import Any

import pytest
import torch

from vit.data.load.box_reader import BoxBatch
from vit.detector import Detector, DetectorConfig
from vit.detector.boxes import iou, to_xyxy
from vit.model.config import EncoderConfig
from vit.optim.optimizers import make_optimizers
from vit.optim.schedule import Loop
from vit.tasks.detection.loss import DetectionLoss
from vit.tasks.detection.task import Detection
from vit.training.engine import train_step

ENCODER = EncoderConfig(32, 2, 2, 64, patch_size=8, image_size=(32, 32), class_token=False, final_norm=False)
LOOP = Loop(steps=100, steps_per_epoch=10, clip=0.1)
EMPTY = ([], [])


def detector(classes: int = 3, **fields: Any) -> Detector:
    torch.manual_seed(0)
    return Detector(
        DetectorConfig(
            ENCODER, num_classes=classes, taps=(1, 2), scales=(2.0,), neck_blocks=1, width=32, layers=2, heads=2,
            sampling_heads=4, mlp=64, queries=12, groups=2, **fields,
        )
    )  # fmt: skip


def target(labels: list[int], boxes: list[list[float]]) -> dict[str, Any]:
    return {
        "labels": torch.tensor(labels, dtype=torch.int64),
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "crowd": torch.zeros(len(labels), dtype=torch.bool),
    }


def batch_of(*targets: tuple[list[int], list[list[float]]], size: tuple[int, int] = (32, 48)) -> BoxBatch:
    images = torch.randn(len(targets), 3, *size, generator=torch.Generator().manual_seed(1))
    return BoxBatch(images, [target(*one) for one in targets], torch.arange(len(targets)))


def trained(model: Detector, batch: BoxBatch, steps: int, lr: float = 1e-3) -> list[float]:
    """Losses of so many steps on one batch; they and every weight stay finite."""
    task = Detection(model, [str(k) for k in range(model.config.num_classes)], DetectionLoss(model.config.num_classes),
                     (32, 48))  # fmt: skip
    optimizers = make_optimizers(model, name="adamw", lr=lr, muon_lr=0.01, weight_decay=1e-4)
    losses = [float(train_step(task, batch, optimizers, LOOP)) for _ in range(steps)]
    assert all(map(math.isfinite, losses)) and all(parameter.isfinite().all() for parameter in model.parameters())
    return losses


def test_row_17_a_batch_of_empty_images_teaches_that_nothing_is_there():
    model, batch = detector(), batch_of(EMPTY, EMPTY)
    with torch.no_grad():
        before = model.eval()(batch.images).last.logits.sigmoid().mean()
    losses = trained(model.train(), batch, 10)
    with torch.no_grad():
        after = model.eval()(batch.images).last.logits.sigmoid().mean()
    assert losses[-1] < losses[0] and after < before


def test_an_empty_image_beside_others_costs_only_its_scores():
    """Alone or beside another image, the other's boxes cost the same."""
    model = detector().train()
    both = batch_of(([1], [[0.4, 0.5, 0.2, 0.3]]), EMPTY)
    loss = DetectionLoss(3)
    together = loss(model(both.images), both.targets)
    alone = loss(model(both.images[:1]), both.targets[:1])
    for name in ("l1", "giou", "l1_0", "giou_enc"):
        assert torch.allclose(together[name], alone[name], atol=1e-5), name
    assert together["class"] > alone["class"]


def test_the_order_of_images_does_not_matter_to_the_loss():
    model, loss = detector().train(), DetectionLoss(3)
    batch = batch_of(([1], [[0.4, 0.5, 0.2, 0.3]]), ([0, 2], [[0.2, 0.2, 0.3, 0.3], [0.7, 0.6, 0.2, 0.4]]), EMPTY)
    forward = loss(model(batch.images), batch.targets)
    back = loss(model(batch.images.flip(0)), batch.targets[::-1])
    for name in forward:
        assert torch.allclose(forward[name], back[name], rtol=1e-4), name


BORDERS = {
    "corner": [0.1, 0.1, 0.2, 0.2],
    "everything": [0.5, 0.5, 1.0, 1.0],
    "a stripe along the edge": [0.5, 0.99, 1.0, 0.02],
    "a pixel": [0.5, 0.5, 1 / 48, 1 / 32],
    "a pixel in the corner": [0.5 / 48, 0.5 / 32, 1 / 48, 1 / 32],
}


@pytest.mark.parametrize("case", BORDERS)
def test_boxes_at_the_border_and_of_a_pixel_can_be_trained_on(case: str):
    trained(detector(), batch_of(([0], [BORDERS[case]]), EMPTY), 4)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["corner", "everything"])
def test_boxes_at_the_border_are_found(case: str):
    """Anchors close to the border are not used; boxes reach it all the same."""
    model, batch = detector(), batch_of(([0], [BORDERS[case]]))
    trained(model, batch, 150, lr=2e-3)
    with torch.no_grad():
        last = model.eval()(batch.images).last
    best = int(last.logits[0, :, 0].argmax())
    found, wanted = to_xyxy(last.boxes[0, best : best + 1]), to_xyxy(torch.tensor([BORDERS[case]]))
    assert float(iou(found, wanted)) > 0.8


@pytest.mark.parametrize("classes", [1, 1000])
def test_one_class_and_a_thousand(classes: int):
    model = detector(classes)
    batch = batch_of(([0, classes - 1], [[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.2, 0.4]]), EMPTY)
    trained(model, batch, 3)
    task = Detection(model, [str(k) for k in range(classes)], DetectionLoss(classes), (32, 48))
    metrics = task.metrics()
    truth = {
        "placement": (1.0, 1.0, 0, 0), "original_size": (32, 48), "labels": torch.tensor([classes - 1]),
        "original_boxes": torch.tensor([[4.0, 4.0, 20.0, 20.0]]), "crowd": torch.zeros(1, dtype=torch.bool),
        "area": torch.tensor([256.0]),
    }  # fmt: skip
    with torch.no_grad():
        metrics.update(model.eval()(batch.images[:1]).last, [truth])
    numbers = metrics.scalars()
    assert numbers["objects"] == 1 and 0 <= numbers["map"] <= 1


def test_two_thousand_objects_in_an_image():
    """More than there are queries: each query has one, the others teach nothing."""
    places = torch.rand(2000, 4, generator=torch.Generator().manual_seed(2)) * 0.5 + 0.25
    places[:, 2:] = 0.02
    batch = batch_of(([k % 3 for k in range(2000)], places.tolist()), EMPTY)
    model = detector().train()
    last = model(batch.images).last
    matches = DetectionLoss(3).matcher(last.logits, last.boxes, batch.targets, 2)
    assert len(matches.query) == 2 * 12 and len(set(matches.query.tolist())) == 24
    trained(model, batch, 3)


def test_layer_decay_slows_the_encoder_only():
    model = detector()
    (optimizer,) = make_optimizers(model, name="adamw", lr=1.0, muon_lr=1.0, weight_decay=0.1, layer_decay=0.5)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        rate = 0.125 if "embed" in name else 0.25 if "blocks.0" in name else 0.5 if "blocks.1" in name else 1.0
        assert groups[id(parameter)]["base_lr"] == rate, name
        assert parameter.ndim > 1 or groups[id(parameter)]["weight_decay"] == 0, name
