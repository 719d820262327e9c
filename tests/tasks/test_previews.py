from pathlib import Path

import numpy as np
from PIL import Image

from vit.images.draw import color_of
from vit.tasks.detection.metrics import Boxes, DetectionMetrics, Truth
from vit.tasks.detection.previews import CELL, COLUMNS, Previews, spread


class Gray:
    """Images of four sizes, none of which is enlarged."""

    sizes = ((400, 400), (800, 800), (400, 400), (300, 600))

    def __init__(self) -> None:
        self.read = 0

    def image(self, i: int) -> np.ndarray:
        self.read += 1
        return np.full((*self.sizes[i % 4], 3), 90, np.uint8)


def a_box(box: list[float], score: float, label: int) -> Boxes:
    return Boxes(np.array([box], np.float32), np.array([score], np.float32), np.array([label]))


NOTHING = Boxes(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
NO_TRUTH = Truth(np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, bool), np.empty(0, np.float32))


def page_of(images: Gray, chosen: list[int], index: list[int], found: list[Boxes], folder: Path) -> np.ndarray:
    metrics = DetectionMetrics(("a", "b"), (64, 64))
    metrics.found, metrics.truths = found, [NO_TRUTH] * len(found)
    previews = Previews(folder, images, chosen, ("a", "b"))
    file = previews.draw(metrics, index, 7)
    assert file == folder / "epoch_007.png"
    return np.asarray(Image.open(file))


def painted(cell: np.ndarray, label: int) -> np.ndarray:
    """The box (left, top, right, bottom) around all pixels of a class's color, or of its first half if it is split."""
    near = (np.abs(cell.astype(int) - color_of(label)).max(-1) < 60).nonzero()
    return np.array([near[1].min(), near[0].min(), near[1].max(), near[0].max()]) if len(near[0]) else np.array([])


def test_boxes_are_drawn_where_they_were_found(tmp_path: Path):
    """Image 1 could not be read in the evaluation; image 2's box scores too little; image 3 is large."""
    images = Gray()
    found = [a_box([100, 200, 300, 390], 0.9, 0), a_box([50, 50, 90, 90], 0.2, 1), NOTHING]
    page = page_of(images, [0, 1, 2, 3], [0, 2, 3], found, tmp_path / "previews")
    assert page.shape == (CELL, COLUMNS * CELL, 3)
    first, second, third, fourth = (page[:, k * CELL : (k + 1) * CELL] for k in range(4))
    scale = (CELL - 8) / 400
    left, top, right, bottom = painted(first, 0)
    assert abs(left - (4 + 100 * scale)) < 8 and abs(right - (4 + 300 * scale)) < 8
    assert abs(bottom - (4 + 390 * scale)) < 8 and top < 4 + 200 * scale + 4  # the name stands above
    assert painted(second, 1).size == 0 and painted(second, 0).size == 0
    assert third[CELL // 2, CELL // 2].tolist() == [90] * 3 and third[20, 20].tolist() == [255] * 3  # 300 x 600
    assert fourth.min() == 255


def test_large_images_are_reduced_once(tmp_path: Path):
    images = Gray()
    previews = Previews(tmp_path, images, [1], ("a", "b"))
    metrics = DetectionMetrics(("a", "b"), (64, 64))
    metrics.found, metrics.truths = [a_box([400, 400, 600, 800], 0.9, 1)], [NO_TRUTH]
    for epoch in (1, 2):
        page = np.asarray(Image.open(previews.draw(metrics, [1], epoch)))
    left, _, right, bottom = painted(page[:, :CELL], 1)
    assert abs(left - CELL / 2) < 8 and abs(right - CELL * 3 / 4) < 8 and abs(bottom - CELL) < 10
    assert images.read == 1


def test_the_same_images_spread_over_the_set_those_with_objects_first():
    objects = np.zeros(100, np.int64)
    objects[[3, 50, 97]] = 1
    chosen = spread(objects, 5)
    assert len(set(chosen)) == 5 and {3, 50, 97} < set(chosen) and chosen == sorted(chosen) == spread(objects, 5)
    assert spread(np.ones(100), 5) == [0, 25, 50, 74, 99]
    assert spread(np.ones(3), 16) == [0, 1, 2] and spread(np.zeros(2), 16) == [0, 1] and spread(np.zeros(0), 16) == []
