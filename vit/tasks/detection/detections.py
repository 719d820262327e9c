"""The detections in one image: boxes with classes and scores, and exports for other tools.

Letters: n boxes, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vit.errors import UserError
from vit.images.draw import Mark, color_of, draw_boxes
from vit.images.preprocess import decode
from vit.predict.predictor import source_entry
from vit.tasks.detection.pictures import draw_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Box(NamedTuple):
    """One object."""

    name: str
    score: float
    xyxy: tuple[float, float, float, float]
    """(left, top, right, bottom) in pixels of the image."""
    category_id: int


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects of one image, best first. `len()` counts them; iterating yields a `Box` each."""

    xyxy: np.ndarray
    """float32 [n, 4]: (left, top, right, bottom) in pixels of the original image, within it."""
    scores: np.ndarray
    """float32 [n] in 0..1"""
    labels: np.ndarray
    """int64 [n]: positions in `classes`."""
    size: tuple[int, int]
    """(H, W) of the image."""
    classes: tuple[str, ...] = field(repr=False)
    category_ids: tuple[int, ...] = field(repr=False)
    """int [K]: the class ids of the training data's own file, for `to_coco` and `to_dict`."""
    source: Any = field(default=None, repr=False)
    """The image as passed in."""

    @property
    def names(self) -> tuple[str, ...]:
        """The class of each box."""
        return tuple(self.classes[k] for k in self.labels.tolist())

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Box]:
        for box, score, label in zip(self.xyxy.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True):
            yield Box(self.classes[label], score, tuple(box), self.category_ids[label])

    def text(self, k: int | None = None) -> str:
        """The boxes with their names and scores, on one line. k is ignored: it is for other tasks."""
        items = [f"{box.name} {100 * box.score:.1f} % [{', '.join(f'{v:.0f}' for v in box.xyxy)}]" for box in self]
        return ", ".join(items) or "nothing found"

    def to_dict(self, k: int | None = None) -> dict[str, Any]:
        """Plain values for JSON: source (if it is a path), width, height, and boxes as {label, category_id, score,
        xyxy}, rounded to 0.01 pixels, scores to 0.0001."""
        boxes = [
            {
                "label": box.name,
                "category_id": box.category_id,
                "score": round(box.score, 4),
                "xyxy": [round(value, 2) for value in box.xyxy],
            }
            for box in self
        ]
        return {**source_entry(self.source), "width": self.size[1], "height": self.size[0], "boxes": boxes}

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO's result format: [{image_id, category_id, bbox [x, y, width, height], score}]."""
        return [
            {
                "image_id": image_id,
                "category_id": box.category_id,
                "bbox": [box.xyxy[0], box.xyxy[1], box.xyxy[2] - box.xyxy[0], box.xyxy[3] - box.xyxy[1]],
                "score": box.score,
            }
            for box in self
        ]

    def to_supervision(self) -> Any:
        """`supervision.Detections`, for its trackers and annotators: class_id holds positions in `classes`, data holds
        class_name. Raises UserError if the package is not installed."""
        try:
            import supervision  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(f"to_supervision() needs a package ({error}): pip install supervision.") from None
        return supervision.Detections(
            xyxy=self.xyxy.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def drawn(self) -> np.ndarray:
        """The image with its boxes, uint8 [H, W, 3]; a small one is enlarged by a whole factor, for legible names."""
        marks = [
            Mark(box.xyxy, f"{box.name} {box.score:.2f}", color_of(label))
            for box, label in zip(self, self.labels.tolist(), strict=True)
        ]
        return draw_boxes(decode(self.source), marks)

    def plot(self) -> Figure:
        """The image with its boxes. Save it with `.savefig("answer.png")`; notebooks display it."""
        return draw_image(self.drawn())
