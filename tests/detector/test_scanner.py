"""A scan gives boxes in the image's own pixels however it looks. The model finds the one bright rectangle."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vit.detector.output import Predictions
from vit.detector.postprocess import Found
from vit.errors import UserError
from vit.images.preprocess import Preprocess
from vit.tasks.detection.scan.options import Scan
from vit.tasks.detection.scan.scanner import Scanner
from vit.tasks.detection.scan.views import View, fuse, views_of


class Bright(nn.Module):
    """The box around all pixels above the mean color, with a score of .73; 0 where there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(divisor=8)
        self.weight = nn.Parameter(torch.zeros(1))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Any:
        self.sizes.append(tuple(images.shape))
        boxes, logits = torch.full((len(images), 1, 4), 0.5), torch.full((len(images), 1, 1), -200.0)
        for i, bright in enumerate(images[:, 0] > 1.0):
            if bright.any():
                rows, columns = bright.any(1).nonzero()[:, 0], bright.any(0).nonzero()[:, 0]
                low = torch.tensor([columns[0], rows[0]]) / torch.tensor(bright.shape[::-1])
                high = (torch.tensor([columns[-1], rows[-1]]) + 1) / torch.tensor(bright.shape[::-1])
                boxes[i, 0], logits[i] = torch.cat([(low + high) / 2, high - low]), 1.0
        return SimpleNamespace(last=Predictions(logits, boxes))


def scanner(resize: str = "letterbox", augment: float = 0.5, **options: Any) -> tuple[Scanner, Bright]:
    model: Any = Bright()
    preprocess = Preprocess((64, 64), resize=resize, mean=(0, 0, 0), std=(0.5, 0.5, 0.5))  # pyright: ignore
    config = {"augment": {"flip": augment}, "preprocess": preprocess.to_dict()}
    return Scanner(model, config, Scan(**options)), model


def picture(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


def found_in(looking: Scanner, *images: np.ndarray) -> list[Found]:
    return looking.finish([looking.prepare(image) for image in images])


@pytest.mark.parametrize("resize", ["letterbox", "squash"])
@pytest.mark.parametrize(
    "options", [{}, {"tta": True}, {"tta": True, "flip": False}, {"tile": 50}, {"tile": 40, "tta": True}]
)
def test_boxes_are_in_pixels_of_the_image(resize: str, options: dict[str, Any]):
    looking, _ = scanner(resize, **options)
    boxes = [(5, 30, 37, 52), (70, 8, 88, 40)]
    images = [picture(60, 90, boxes[0]), picture(48, 120, boxes[1])]
    for found, box in zip(found_in(looking, *images), boxes, strict=True):
        best = found.take(found.scores > 0.5)
        assert len(best.scores) == 1
        # Half a pixel of the input, which shows two of the wider image as one.
        assert (best.xyxy[0] - torch.tensor(box)).abs().max() <= 2.0


def test_views_are_what_training_knew():
    sizes = [(64, 64), (72, 72), (56, 56)]
    assert views_of((64, 64), 8, flip=True) == [View(s, f) for f in (False, True) for s in sizes]
    assert views_of((64, 96), 8, flip=False)[0] == View((64, 96), False)
    assert len(views_of((16, 16), 16, flip=False)) == 1  # 14 and 18 pixels are both 16
    for flip, expected in ((None, 6), (False, 3)):
        looking, model = scanner(tta=True, flip=flip)
        found_in(looking, picture(64, 64, (0, 0, 9, 9)))
        assert len(model.sizes) == expected
    looking, _ = scanner(augment=0.0, tta=True)
    assert not any(view.flip for view in looking.views)  # a mirrored 3 is no 3


def found_of(*rows: tuple[float, ...]) -> Found:
    """(left, top, right, bottom, score, label) each, best first."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Found(table[:, :4], table[:, 4], table[:, 5].long(), 0)


def test_fusion_by_hand():
    """Weighted boxes fusion, Solovyev et al. 2021, equations 1 to 6: three views, of which two see the object."""
    first = found_of((0, 0, 10, 10, 0.8, 0), (50, 50, 60, 60, 0.3, 1))
    second = found_of((1, 0, 11, 12, 0.4, 0), (0, 0, 10, 10, 0.2, 2))
    fused = fuse([first, second, found_of()])
    assert fused.labels.tolist() == [0, 1, 2]
    assert fused.scores.tolist() == pytest.approx([1.2 / 3, 0.3 / 3, 0.2 / 3])
    assert fused.xyxy[0].tolist() == pytest.approx([0.4 / 1.2, 0, 10 + 0.4 / 1.2, (8 + 4.8) / 1.2])
    assert fused.xyxy[1].tolist() == [50, 50, 60, 60]


def test_a_view_does_not_vote_twice():
    """Two objects that overlap in every view stay two."""
    view = found_of((0, 0, 10, 10, 0.8, 0), (0, 0, 10, 13, 0.7, 0))
    fused = fuse([view, view])
    assert fused.scores.tolist() == pytest.approx([0.8, 0.7])
    assert torch.equal(fused.xyxy, view.xyxy)
    assert fuse([found_of(), found_of()]).xyxy.shape == (0, 4)


def test_nms_and_limit_come_last():
    looking, _ = scanner(nms=0.5)
    looking._seen = lambda *_: [found_of((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 11, 0.8, 0), (0, 0, 10, 10, 0.7, 1))]  # pyright: ignore
    assert found_in(looking, picture(9, 9, (0, 0, 1, 1)))[0].labels.tolist() == [0, 1]
    looking.limit = 1
    assert found_in(looking, picture(9, 9, (0, 0, 1, 1)))[0].scores.tolist() == [pytest.approx(0.9)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile, a side in pixels"),
        ({"overlap": 1.0}, "overlap must be at least 0 and below 1"),
        ({"nms": 1.5}, "an IoU in 0..1"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        Scan(**options)
