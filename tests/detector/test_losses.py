from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torchvision.ops import box_convert, box_iou

from vit.detector.output import DetectorOutput, Predictions
from vit.errors import UserError
from vit.tasks.detection.loss import DetectionLoss


def outputs(
    images: int = 2, queries: int = 6, classes: int = 5, groups: int = 1, layers: int = 1, seed: int = 0
) -> DetectorOutput:
    g = torch.Generator().manual_seed(seed)

    def predictions() -> Predictions:
        logits = torch.randn(images, groups * queries, classes, generator=g, requires_grad=True)
        boxes = torch.rand(images, groups * queries, 4, generator=g) * 0.4 + 0.2
        return Predictions(logits, boxes.requires_grad_())

    last = predictions()
    return DetectorOutput(last, [predictions() for _ in range(layers - 1)], predictions(), groups)


def targets(*counts: int, classes: int = 5, seed: int = 1) -> list[dict[str, Any]]:
    g = torch.Generator().manual_seed(seed)
    return [
        {"labels": torch.randint(classes, (n,), generator=g), "boxes": torch.rand(n, 4, generator=g) * 0.4 + 0.2}
        for n in counts
    ]


def test_terms_of_every_layer():
    terms = DetectionLoss(5)(outputs(layers=3), targets(2, 1))
    suffixes = ("", "_0", "_1", "_enc")
    assert set(terms) == {name + suffix for name in ("class", "l1", "giou") for suffix in suffixes}
    assert all(value.isfinite() and value > 0 for value in terms.values())


def test_box_terms_by_hand():
    wanted = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    found = torch.tensor([[[0.6, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]])
    out = DetectorOutput(Predictions(torch.zeros(1, 2, 1), found), [], None, 1)
    terms = DetectionLoss(1)(out, [{"labels": torch.tensor([0]), "boxes": wanted}])
    assert terms["l1"].item() == pytest.approx(5 * 0.1, rel=1e-5)
    # Half of each box overlaps; the hull is exactly their union: GIoU = IoU = 1/3.
    assert terms["giou"].item() == pytest.approx(2 * (1 - 1 / 3), rel=1e-5)


def test_class_term_by_hand():
    wanted = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    logits = torch.tensor([[[1.2], [-0.7]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]])
    terms = DetectionLoss(1)(
        DetectorOutput(Predictions(logits, boxes), [], None, 1), [{"labels": torch.tensor([0]), "boxes": wanted}]
    )
    p, other = logits.sigmoid().flatten().tolist()
    q = p**0.25  # the IoU is 1
    by_hand = (
        -q * torch.tensor(p).log() - (1 - q) * torch.tensor(1 - p).log() - other**2 * torch.tensor(1 - other).log()
    )
    assert terms["class"].item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("groups", "counts"), [(1, (3, 0, 2)), (2, (1, 4, 2)), (1, (0, 0, 0))])
def test_values_and_gradients_are_transformers(
    groups: int, counts: tuple[int, ...], peer: Callable[..., None], tmp_path: Path
):
    out = outputs(images=3, groups=groups)
    wanted = targets(*counts)
    values = {
        "logits": out.last.logits.detach(), "pred_boxes": out.last.boxes.detach(),
        "groups": torch.tensor(groups), "images": torch.tensor(3),
    }  # fmt: skip
    for i, target in enumerate(wanted):
        values |= {f"labels.{i}": target["labels"], f"boxes.{i}": target["boxes"]}
    save_file(values, tmp_path / "in.safetensors")
    peer("losses_peer.py", tmp_path / "in.safetensors", tmp_path / "out.safetensors", needs="transformers")
    theirs = load_file(tmp_path / "out.safetensors")
    terms = DetectionLoss(5)(out._replace(selected=None), wanted)
    for name, value in terms.items():
        assert value.item() == pytest.approx(theirs[name].item(), rel=1e-5, abs=1e-6), name
    torch.stack(list(terms.values())).sum().backward()
    assert torch.allclose(out.last.logits.grad, theirs["logits.grad"], atol=1e-5)
    assert torch.allclose(out.last.boxes.grad, theirs["boxes.grad"], atol=1e-4)
    out.last.logits.grad = None
    mal = DetectionLoss(5, kind="mal")(out._replace(selected=None), wanted)["class"]
    mal.backward()
    assert mal.item() == pytest.approx(theirs["mal"].item(), rel=1e-5)
    assert torch.allclose(out.last.logits.grad, theirs["mal.grad"], atol=1e-5)


@pytest.mark.parametrize("kind", ["iou", "mal"])
def test_saturated_logits_stay_finite(kind: Any):
    """log(sigmoid) and log(1 - sigmoid) are -inf here: the form with logarithms gives NaN."""
    out = outputs()
    with torch.no_grad():
        out.last.logits.fill_(200.0)
        out.last.logits[:, ::2] = -200.0
    terms = DetectionLoss(5, kind=kind)(out, targets(2, 2))
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert total.isfinite() and out.last.logits.grad.isfinite().all()


def test_only_empty_images():
    out = outputs()
    terms = DetectionLoss(5)(out, targets(0, 0))
    assert terms["l1"] == terms["giou"] == 0
    assert terms["class"] > 0
    torch.stack(list(terms.values())).sum().backward()
    assert out.last.logits.grad is not None and out.last.logits.grad.isfinite().all()


def test_half_precision_is_left_aside():
    out = outputs()
    plain = DetectionLoss(5)(out, targets(2, 2))
    with torch.autocast("cpu", torch.bfloat16):
        cast = DetectionLoss(5)(out, targets(2, 2))
    for name, value in plain.items():
        assert cast[name].dtype == torch.float32
        assert torch.equal(cast[name], value)


def test_crowd_is_not_trained_on():
    some = targets(3, 2)
    crowded = [{**t, "crowd": torch.zeros(len(t["labels"]), dtype=torch.bool)} for t in some]
    crowded[0]["crowd"][1] = True
    without = [{"labels": t["labels"][~t["crowd"]], "boxes": t["boxes"][~t["crowd"]]} for t in crowded]
    a, b = DetectionLoss(5)(outputs(), crowded), DetectionLoss(5)(outputs(), without)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_class_weights_scale_their_class():
    out, wanted = outputs(classes=2), targets(3, 2, classes=2)
    plain = DetectionLoss(2)(out, wanted)
    doubled = DetectionLoss(2, class_weights=torch.tensor([2.0, 2.0]))(out, wanted)
    for name in plain:
        assert torch.isclose(doubled[name], 2 * plain[name])
    none = DetectionLoss(2, class_weights=torch.tensor([0.0, 0.0]))(out, wanted)
    assert all(value == 0 for value in none.values())


def test_one_class_and_a_thousand():
    for classes in (1, 1000):
        terms = DetectionLoss(classes)(outputs(classes=classes), targets(2, 2, classes=classes))
        assert all(value.isfinite() for value in terms.values())


def test_mal_is_torchs_cross_entropy_with_a_soft_target():
    """DEIM, eq. 3: the target of a match is its IoU^1.5, at full weight; elsewhere it is 0, with weight p^1.5."""
    out, wanted = outputs(seed=3), targets(3, 2)
    loss = DetectionLoss(5, kind="mal")
    value = loss(out._replace(selected=None), wanted)["class"]
    value.backward()
    matches = loss.matcher(out.last.logits, out.last.boxes, wanted)
    labels, objects = (torch.cat([t[key] for t in wanted])[matches.target] for key in ("labels", "boxes"))
    found = out.last.boxes.detach()[matches.image, matches.query]
    overlap = box_iou(*(box_convert(boxes, "cxcywh", "xyxy") for boxes in (found, objects))).diagonal()
    logits = out.last.logits.detach().clone().requires_grad_()
    where, weight, target = (
        (matches.image, matches.query, labels),
        logits.detach().sigmoid() ** 1.5,
        torch.zeros(2, 6, 5),
    )
    weight[where], target[where] = 1.0, overlap**1.5
    by_torch = F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum") / 5
    by_torch.backward()
    assert value.item() == pytest.approx(by_torch.item(), rel=1e-5)
    assert torch.allclose(out.last.logits.grad, logits.grad, atol=1e-6)


def test_parts_with_few_objects_weigh_as_much():
    """Two parts with 4 images and 5 + 1 objects, each times its amount over that of both, are the loss of all."""
    whole, wanted = outputs(images=4), targets(3, 2, 0, 1)
    loss = DetectionLoss(5)
    once, amount = loss(whole, wanted), loss.amount(wanted, 1, torch.device("cpu"))
    assert amount == 6

    def part(predictions: Predictions, rows: slice) -> Predictions:
        return Predictions(predictions.logits[rows], predictions.boxes[rows])

    parts = []
    for rows in (slice(0, 2), slice(2, 4)):
        out = DetectorOutput(part(whole.last, rows), [], part(whole.selected, rows), 1)  # pyright: ignore
        share = loss.amount(wanted[rows], 1, torch.device("cpu")) / amount
        parts.append({name: value * share for name, value in loss(out, wanted[rows]).items()})
    for name, value in once.items():
        assert torch.isclose(parts[0][name] + parts[1][name], value, rtol=1e-5), name


def test_label_beyond_the_classes():
    wanted = targets(1, 1)
    wanted[0] |= {"labels": torch.tensor([7]), "image_id": 42}
    with pytest.raises(UserError, match=r"Image 42 has the label 7; the model has 5 classes"):
        DetectionLoss(5)(outputs(), wanted)
