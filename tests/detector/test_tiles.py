"""What a perfect detector sees in each tile becomes the true boxes again, each once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vit.detector.postprocess import Found
from vit.tasks.detection.scan.tiles import Window, stitch, windows_of


@given(
    height=st.integers(1, 400), width=st.integers(1, 400), tile=st.integers(8, 120), overlap=st.floats(0, 0.8),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_tiles_cover_the_image_and_overlap(height: int, width: int, tile: int, overlap: float):
    windows = windows_of((height, width), tile, overlap)
    assert windows[0] == (0, 0, width, height)
    if max(height, width) <= tile:
        assert len(windows) == 1
        return
    covered = np.zeros((height, width), bool)
    for left, top, right, bottom in windows[1:]:
        assert (right - left, bottom - top) == (min(tile, width), min(tile, height))
        covered[top:bottom, left:right] = True
    assert covered.all()
    for side in (0, 1):
        starts = sorted({window[side] for window in windows[1:]})
        ends = sorted({window[side + 2] for window in windows[1:]})
        for end, start in zip(ends, starts[1:], strict=False):
            assert end - start >= overlap * tile - 1  # whole pixels


def seen(boxes: np.ndarray, labels: np.ndarray, window: Window, scores: np.ndarray, least: float = 3.0) -> Found:
    """Every object of which the tile shows `least` pixels each way, cut at its border."""
    low, high = np.maximum(boxes[:, :2], window[:2]), np.minimum(boxes[:, 2:], window[2:])
    shown = (high - low >= least).all(axis=1)
    cut = np.concatenate([low, high], axis=1)[shown].astype(np.float32)
    return Found(torch.from_numpy(cut), torch.from_numpy(scores[shown]), torch.from_numpy(labels[shown]), 0)


def apart(rng: np.random.Generator, size: tuple[int, int], largest: float, count: int) -> np.ndarray:
    """Boxes xyxy that do not meet, of sides 8 to `largest`."""
    kept: list[np.ndarray] = []
    for _ in range(count):
        sides = rng.uniform(8, largest, 2)
        corner = rng.uniform(0, 1, 2) * (np.array([size[1], size[0]]) - sides)
        box = np.concatenate([corner, corner + sides])
        if all((box[2:] <= old[:2]).any() or (old[2:] <= box[:2]).any() for old in kept):
            kept.append(box)
    return np.stack(kept).astype(np.float32)


@pytest.mark.parametrize("largest", [30.0, 90.0])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_every_object_comes_back_once(largest: float, seed: int):
    """In tiles of 100 that share 40 pixels, with objects smaller and larger than that; the look at the whole image
    finds none of them, as they are small in it."""
    rng = np.random.default_rng(seed)
    size = (260, 330)
    boxes = apart(rng, size, largest, 25)
    labels = rng.integers(0, 2, len(boxes))
    windows = windows_of(size, 100, 0.4)
    # Which tile gives the highest score is chance, but all of them are sure.
    found = [seen(boxes, labels, window, rng.uniform(0.6, 1, len(boxes)).astype(np.float32)) for window in windows]
    result = stitch([found[0].take(slice(0)), *found[1:]], windows, size)
    order = np.lexsort(result.xyxy.numpy().T)
    wanted = np.lexsort(boxes.T)
    assert len(result.scores) == len(boxes)
    np.testing.assert_allclose(result.xyxy.numpy()[order], boxes[wanted], atol=1e-4)
    assert result.labels.numpy()[order].tolist() == labels[wanted].tolist()
    assert (result.scores.diff() <= 0).all()


def found_of(*rows: tuple[float, ...]) -> Found:
    """(left, top, right, bottom, score, label) each."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Found(table[:, :4], table[:, 4], table[:, 5].long(), 0)


TWO = [(0, 0, 160, 100), (0, 0, 100, 100), (60, 0, 160, 100)]
"""The whole image and two tiles that share 40 pixels."""


def test_a_whole_box_is_preferred_to_a_cut_one_of_a_higher_score():
    left, right = found_of((70, 10, 100, 40, 0.9, 0)), found_of((70, 10, 120, 40, 0.6, 0))
    result = stitch([found_of(), left, right], TWO, (100, 160))
    assert result.xyxy.tolist() == [[70, 10, 120, 40]] and result.scores.tolist() == [pytest.approx(0.6)]
    # But not when it is hardly believed in.
    doubtful = found_of((70, 10, 120, 40, 0.2, 0))
    result = stitch([found_of(), left, doubtful], TWO, (100, 160))
    assert result.xyxy[0].tolist() == [70, 10, 100, 40] and len(result.scores) == 2


def test_parts_of_a_long_object_are_put_together():
    left, right = found_of((20, 10, 100, 40, 0.7, 0)), found_of((60, 11, 130, 40, 0.8, 0))
    result = stitch([found_of(), left, right], TWO, (100, 160))
    assert result.xyxy.tolist() == [[20, 10, 130, 40]] and result.scores.tolist() == [pytest.approx(0.8)]
    # The look at the whole image has it whole.
    whole = found_of((22, 10, 130, 40, 0.5, 0))
    result = stitch([whole, left, right], TWO, (100, 160))
    assert result.xyxy.tolist() == [[22, 10, 130, 40]]


def test_other_objects_and_other_classes_are_left_alone():
    # Two at the border, one above the other; one of another class in the same place; two of one tile that overlap.
    left = found_of(
        (70, 10, 100, 40, 0.9, 0), (70, 45, 100, 80, 0.8, 0), (5, 5, 40, 40, 0.7, 1), (8, 5, 43, 40, 0.6, 1)
    )
    right = found_of((70, 10, 100, 40, 0.7, 2))
    result = stitch([found_of(), left, right], TWO, (100, 160))
    assert len(result.scores) == 5


def test_an_image_without_boxes_and_a_count_of_what_was_dropped():
    result = stitch([found_of()._replace(dropped=2), found_of(), found_of()._replace(dropped=1)], TWO, (100, 160))
    assert result.xyxy.shape == (0, 4) and result.dropped == 3
