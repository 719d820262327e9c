from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vit.detector import PRESETS, Detector, DetectorConfig, detector_changed, detector_preset
from vit.detector.backbone import into_windows, out_of_windows, tapped_maps
from vit.detector.heads import apply_delta, box_positions
from vit.detector.selection import anchors
from vit.errors import UserError
from vit.model.config import EncoderConfig
from vit.optim.schedule import Loop
from vit.tasks.detection.loss import DetectionLoss
from vit.tasks.detection.task import Detection
from vit.training.engine import train_step

ENCODER = EncoderConfig(32, 3, 2, 64, patch_size=8, image_size=(64, 64), class_token=False, final_norm=False)
TINY = DetectorConfig(
    ENCODER, num_classes=3, taps=(1, 3), scales=(2.0, 0.5), neck_blocks=1, width=32, layers=2, heads=2,
    sampling_heads=4,
    mlp=64, queries=9, groups=2,
)  # fmt: skip


def tiny(**changes) -> Detector:
    torch.manual_seed(0)
    model = Detector(detector_changed(TINY, changes))
    for parameter in model.parameters():  # the heads start as zeros, which would hide everything
        torch.nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else None
    return model.eval()


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_shapes(size: tuple[int, int]):
    model = tiny()
    out = model(torch.randn(2, 3, *size))
    assert out.last.logits.shape == (2, 9, 3) and out.last.boxes.shape == (2, 9, 4)
    assert out.earlier == [] and out.selected is None and out.groups == 1
    out = model.train()(torch.randn(2, 3, *size))
    assert out.groups == 2 and len(out.earlier) == 1
    assert out.selected is not None
    for layer in (out.last, *out.earlier, out.selected):
        assert layer.logits.shape == (2, 18, 3) and layer.boxes.shape == (2, 18, 4)


def test_batched_equals_single_in_any_order():
    model = tiny()
    images = torch.randn(3, 3, 64, 48)
    with torch.no_grad():
        together = model(images).last
        for i in (2, 0, 1):
            alone = model(images[i : i + 1]).last
            assert torch.allclose(together.logits[i], alone.logits[0], atol=1e-5)
            assert torch.allclose(together.boxes[i], alone.boxes[0], atol=1e-5)


def test_the_stem_shows_detail_to_the_neck():
    stem = {"stem": "conv", "patch_size": 16, "image_size": (64, 64)}
    model = tiny(encoder=replace(ENCODER, **stem), scales=(2.0,), stem_map=True)
    images = torch.randn(2, 3, 64, 32)
    *tapped, fine = tapped_maps(model.encoder, images, model.config)
    assert [x.shape for x in tapped] == [(2, 32, 4, 2)] * 2 and fine.shape == (2, 16, 8, 4)
    # The tokens are those of an encoder that shows nothing of its stem.
    assert torch.equal(tapped[-1], tapped_maps(model.encoder, images, replace(model.config, stem_map=False))[-1])
    assert model(images).last.logits.shape == (2, 9, 3)


def test_every_parameter_learns():
    model = tiny().train()
    target = {"labels": torch.tensor([0, 2]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3], [0.2, 0.7, 0.1, 0.2]])}
    terms = DetectionLoss(3)(model(torch.randn(2, 3, 64, 64)), [target, target])
    torch.stack(list(terms.values())).sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    # A bias of the keys moves all scores of a query alike: softmax does not see it. All of qkv is one parameter here.
    assert idle == []


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_accumulation_is_the_whole_batch(parts: int):
    """Parts with several objects, with one, with none, with crowds only: each divided by the objects of them all."""

    class Batch(NamedTuple):
        images: torch.Tensor
        targets: list[dict[str, torch.Tensor]]

    counts, crowds = (5, 1, 0, 2), (1, 0, 0, 2)
    generator = torch.Generator().manual_seed(0)
    targets = [
        {
            "labels": torch.randint(3, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.3 + 0.3,
            "crowd": torch.arange(n) < crowd,
        }
        for n, crowd in zip(counts, crowds, strict=True)
    ]
    batch = Batch(torch.randn(4, 3, 64, 64, generator=generator).double(), targets)
    results = []
    for accumulate in (1, parts):
        task = Detection(tiny().double().train(), "abc", DetectionLoss(3), (64, 64))
        rule: list[torch.optim.Optimizer] = [torch.optim.SGD(task.model.parameters(), lr=1.0)]
        loss = train_step(task, batch, rule, Loop(1, 1, accumulate=accumulate))
        results.append((loss, dict(task.model.named_parameters())))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_a_group_does_not_see_the_others():
    """The first group's boxes are the same whatever the second group asks."""
    model = tiny().train()
    images = torch.randn(1, 3, 64, 64)
    before = model(images).last.logits[:, :9]
    with torch.no_grad():
        model.query[9:] += 1.0
    assert torch.allclose(model(images).last.logits[:, :9], before, atol=1e-5)


def test_training_and_evaluation_agree_on_the_first_group():
    model = tiny()
    images = torch.randn(2, 3, 64, 64)
    evaluated = model(images).last
    trained = model.train()(images).last
    assert torch.allclose(trained.boxes[:, :9], evaluated.boxes, atol=1e-5)


def test_fewer_cells_than_queries():
    model = tiny(queries=100, scales=(1.0,))
    assert model(torch.randn(1, 3, 32, 32)).last.logits.shape == (1, 16, 3)
    assert model.train()(torch.randn(1, 3, 32, 32)).last.logits.shape == (1, 32, 3)


def test_starts_from_anchors_with_scores_of_one_percent():
    torch.manual_seed(0)
    out = Detector(TINY).eval()(torch.randn(1, 3, 64, 64)).last
    boxes, usable = anchors([(16, 16), (4, 4)], torch.device("cpu"))
    distance = torch.cdist(out.boxes[0], boxes[usable], p=1).amin(1)
    assert distance.max() < 1e-5
    assert 0.001 < out.logits.sigmoid().mean() < 0.1


@pytest.mark.slow
def test_learns_one_image():
    torch.manual_seed(0)
    model = Detector(replace(TINY, groups=1))
    images = torch.randn(1, 3, 64, 64)
    target = {"labels": torch.tensor([1, 2]), "boxes": torch.tensor([[0.3, 0.4, 0.3, 0.2], [0.7, 0.6, 0.2, 0.4]])}
    loss, optimizer = DetectionLoss(3), torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack(list(loss(model(images), [target]).values())).sum().backward()
        optimizer.step()
    with torch.no_grad():
        out = model.eval()(images).last
    score, label = out.logits[0].sigmoid().max(-1)
    best = score.topk(2).indices
    order = label[best].argsort()
    assert label[best][order].tolist() == [1, 2]
    assert torch.allclose(out.boxes[0, best[order]], target["boxes"], atol=0.05)


@given(side=st.integers(1, 3), h=st.integers(1, 3), w=st.integers(1, 3), prefix=st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_windows_and_back(side: int, h: int, w: int, prefix: int):
    grid = (side * h, side * w)
    x = torch.randn(2, prefix + grid[0] * grid[1], 4)
    windows = into_windows(x, grid, prefix, side)
    assert windows.shape == (2 * side * side, prefix + h * w, 4)
    back = out_of_windows(windows, grid, prefix, side)
    assert torch.equal(back, x[:, prefix:].unflatten(1, grid).permute(0, 3, 1, 2))


def test_windowed_blocks_see_their_window_only():
    config = replace(TINY, windows=2, global_blocks=(), taps=(3,))
    model = Detector(config).eval()
    images = torch.randn(1, 3, 64, 64)
    changed = images.clone()
    changed[:, :, 32:, 32:] += 1.0
    with torch.no_grad():
        before, after = (tapped_maps(model.encoder, x, config)[0] for x in (images, changed))
        difference = (before - after).abs().amax(1)[0]
        assert difference[4:, 4:].min() > 1e-4
        assert difference[:4].max() == 0 and difference[:, :4].max() == 0
        # One global block, and all of them do.
        seen = replace(config, global_blocks=(1,))
        before, after = (tapped_maps(model.encoder, x, seen)[0] for x in (images, changed))
        assert (before - after).abs().amax(1).min() > 0


def test_half_precision_keeps_boxes_whole():
    model = tiny()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = model(torch.randn(1, 3, 64, 64)).last
    assert out.boxes.dtype == torch.float32 and out.boxes.isfinite().all()


def test_box_update_and_positions():
    box = torch.tensor([0.5, 0.5, 0.2, 0.4])
    delta = torch.tensor([1.0, -0.5, 0.0, torch.log(torch.tensor(2.0))])
    assert torch.allclose(apply_delta(box, delta), torch.tensor([0.7, 0.3, 0.2, 0.8]))
    features = box_positions(box[None], 8)
    assert features.shape == (1, 32)
    by_hand = torch.tensor([torch.pi, torch.pi]).sin()  # y = x = .5 at the lowest frequency: sin(2 pi .5)
    assert torch.allclose(features[0, [0, 8]], by_hand, atol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_built_and_written(name: str):
    config = detector_preset(name)
    assert DetectorConfig.from_dict(config.to_dict()) == config
    with torch.device("meta"):
        model = Detector(config)
    assert model.class_head.out_features == config.num_classes


def test_mistakes_are_named():
    with pytest.raises(UserError, match='Did you mean "rfdetr_nano"'):
        detector_preset("rfdetr_nanno")
    with pytest.raises(UserError, match=r'no field .querys.\. Did you mean "queries"'):
        detector_changed(TINY, {"querys": 3})
    with pytest.raises(UserError, match=r"multiples of 16\. The nearest size is 48x64"):
        tiny()(torch.randn(1, 3, 50, 64))
    wrongs = (
        {"taps": (4,)},
        {"taps": (1, 2)},
        {"scales": (0.5, 2.0)},
        {"heads": 3},
        {"num_classes": 0},
        {"stem_map": True},
    )
    for wrong in wrongs:
        with pytest.raises(UserError, match="Detector config"):
            detector_changed(TINY, wrong)
