from dataclasses import replace

import pytest
import torch

from vit.detector import Detector, detector_preset
from vit.detector.denoising import SHIFT, STRETCH, noised_boxes
from vit.detector.output import DenoisedOutput, DetectorOutput, Predictions
from vit.tasks.detection.loss import DetectionLoss

CPU = torch.device("cpu")
BOXES = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.2, 0.7, 0.1, 0.1], [0.8, 0.3, 0.3, 0.2]])
TARGETS = [
    {"boxes": BOXES, "labels": torch.tensor([1, 0, 2])},
    {"boxes": torch.empty(0, 4), "labels": torch.empty(0, dtype=torch.int64)},
]


def small() -> Detector:
    torch.manual_seed(0)
    config = detector_preset("detector_nano")
    encoder = replace(config.encoder, width=32, depth=2, heads=2, mlp=64)
    model = Detector(replace(config, encoder=encoder, taps=(2,), num_classes=3, width=32, mlp=64, queries=8))
    for parameter in model.parameters():  # the heads start as zeros, which would hide everything
        torch.nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else None
    return model


def test_noised_boxes_stay_near_their_objects():
    torch.manual_seed(0)
    boxes, owner = noised_boxes(TARGETS, 200, CPU)
    assert owner[0].bincount().tolist() == [67, 67, 66] and (owner[1] == -1).all()
    near = BOXES[owner[0]]
    shift = (boxes[0, :, :2] - near[:, :2]).abs() / near[:, 2:]
    stretch = (boxes[0, :, 2:] / near[:, 2:]).log().abs()
    assert 0.9 * SHIFT < shift.max() <= SHIFT + 1e-5 and 0.9 * STRETCH < stretch.max() <= STRETCH + 1e-5
    assert (boxes[1, :, 2:] > 0).all()


def test_more_objects_than_queries():
    _, owner = noised_boxes(TARGETS, 2, CPU)
    assert owner.tolist() == [[0, 1], [-1, -1]]


def test_ordinary_queries_do_not_see_them():
    model, images = small().train(), torch.randn(2, 3, 64, 32)
    alone, beside = model(images), model(images, TARGETS)
    assert alone.denoised is None
    assert [y.logits.shape for y in beside.denoised.layers] == [(2, 8, 3)] * 2
    for a, b in zip((alone.last, *alone.earlier), (beside.last, *beside.earlier), strict=True):
        assert torch.allclose(a.logits, b.logits, atol=1e-5) and torch.allclose(a.boxes, b.boxes, atol=1e-5)
    assert model.eval()(images, TARGETS).denoised is None


def test_every_parameter_learns_from_them():
    model = small().train()
    terms = DetectionLoss(3)(model(torch.randn(2, 3, 64, 32), TARGETS), TARGETS)
    torch.stack([value for name, value in terms.items() if "_dn" in name]).sum().backward()
    waiting = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert waiting <= {"selection", "query", "query_box"}
    assert model.shaken_query.grad.any() and model.class_head.weight.grad.any()


def test_all_queries_of_an_object_weigh_as_one():
    """By hand: two objects, one with two queries and one with one, which are off by .1, .3 and .2 in x."""
    owner = torch.tensor([[0, 1, 0], [-1, -1, -1]])
    boxes = BOXES[owner[0]] + torch.tensor([[0.1], [0.2], [0.3]]) * torch.tensor([1.0, 0, 0, 0])
    layer = Predictions(torch.zeros(2, 3, 3), torch.stack([boxes, torch.rand(3, 4)]))
    targets = [{"boxes": BOXES[:2], "labels": torch.tensor([1, 0])}, TARGETS[1]]
    found = Predictions(torch.zeros(2, 3, 3), torch.rand(2, 3, 4))
    terms = DetectionLoss(3)(DetectorOutput(found, [], None, 1, DenoisedOutput([layer], owner)), targets)
    assert terms["l1_dn0"].item() == pytest.approx(5 * ((0.1 + 0.3) / 2 + 0.2) / 2, rel=1e-5)
    assert terms["class_dn0"] > 0
    # What is said of an image without objects counts for nothing.
    other = Predictions(torch.stack([layer.logits[0], torch.full((3, 3), 5.0)]), layer.boxes)
    again = DetectionLoss(3)(DetectorOutput(found, [], None, 1, DenoisedOutput([other], owner)), targets)
    assert all(torch.equal(again[name], terms[name]) for name in terms)
