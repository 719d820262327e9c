import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops

from vit.detector.boxes import area, giou, iou, to_cxcywh, to_xyxy


def boxes(n: int, seed: int) -> torch.Tensor:
    """xyxy in 0..1; some of them lines and points."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 2, 2, generator=generator)
    corners[: n // 5, 1] = corners[: n // 5, 0]
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def test_formats_are_torchvisions():
    x = boxes(40, 0)
    assert torch.allclose(to_cxcywh(x), ops.box_convert(x, "xyxy", "cxcywh"))
    assert torch.allclose(to_xyxy(to_cxcywh(x)), x, atol=1e-6)
    assert torch.allclose(area(x), ops.box_area(x))


@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), m=st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_iou_and_giou_are_torchvisions(seed: int, n: int, m: int):
    a = boxes(n + 5, seed)[5:]
    b = boxes(m + 5, seed + 1)[5:]
    assert torch.allclose(iou(a[:, None], b), ops.box_iou(a, b), atol=1e-6)
    assert torch.allclose(giou(a[:, None], b), ops.generalized_box_iou(a, b), atol=1e-5)
    # Pair by pair is the diagonal of the matrix.
    k = min(n, m)
    assert torch.allclose(giou(a[:k], b[:k]), giou(a[:, None], b).diagonal(), atol=1e-6)


def test_empty_boxes_give_numbers():
    point = torch.tensor([0.5, 0.5, 0.5, 0.5], requires_grad=True)
    for function in (iou, giou):
        value = function(point, point)
        assert value == 0
        value.backward()
        assert point.grad is not None and point.grad.isfinite().all()


def test_no_boxes():
    none = torch.empty(0, 4)
    assert iou(none[:, None], boxes(3, 0)).shape == (0, 3)
    assert giou(none, none).shape == (0,)


def test_giou_falls_with_distance():
    a = torch.tensor([0.0, 0.0, 0.1, 0.1])
    near, far = a + 0.2, a + 0.6
    assert iou(a, near) == iou(a, far) == 0
    assert giou(a, near) > giou(a, far) > -1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype):
    x = boxes(4, 0).to(dtype)
    assert iou(x, x).dtype == giou(x, x).dtype == to_cxcywh(x).dtype == dtype
