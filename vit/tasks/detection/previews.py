"""Draw the detections in the same few validation images after every evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from vit.images.draw import Mark, color_of, draw_boxes

if TYPE_CHECKING:
    from vit.tasks.detection.metrics import DetectionMetrics

COUNT, COLUMNS = 16, 4
CELL = 400
"""Side in pixels of each image's square cell."""
TEXT = 1 / 26
"""Text height as a fraction of the cell."""
SCORE = 0.3
"""Minimum score of drawn boxes: early in training, weaker ones would cover everything."""
PAPER, TRUTH = (255, 255, 255), (255, 255, 255)


class Images(Protocol):
    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]"""
        ...


class Previews:
    """Writes FOLDER/epoch_001.png and so on: predicted boxes with class and score, true ones dashed and white.

    The predictions are the evaluation's, so that a page costs only the drawing. chosen: positions of the images.
    """

    def __init__(self, folder: Path, images: Images, chosen: Sequence[int], classes: Sequence[str]):
        self.folder, self.images, self.chosen, self.classes = folder, images, list(chosen), tuple(classes)
        self._small: dict[int, tuple[np.ndarray, float]] = {}

    def draw(self, metrics: DetectionMetrics, index: Sequence[int], epoch: int) -> Path:
        """Write the page of an evaluation; its path. index: positions of the evaluated images, in order."""
        place = {row: k for k, row in enumerate(index)}
        cells = [self._cell(i, metrics, place[i]) for i in self.chosen if i in place]
        rows = max(1, -(-len(cells) // COLUMNS))
        page = Image.new("RGB", (COLUMNS * CELL, rows * CELL), PAPER)
        for k, cell in enumerate(cells):
            corner = (k % COLUMNS) * CELL, (k // COLUMNS) * CELL
            page.paste(cell, (corner[0] + (CELL - cell.width) // 2, corner[1] + (CELL - cell.height) // 2))
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"epoch_{epoch:03d}.png"
        page.save(file, compress_level=1)
        return file

    def _cell(self, i: int, metrics: DetectionMetrics, k: int) -> Image.Image:
        pixels, scale = self._reduced(i)
        found, truth = metrics.found[k], metrics.truths[k]
        marks = [
            Mark((box * scale).tolist(), f"{self.classes[label]} {score:.2f}", color_of(int(label)))
            for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
            if score >= SCORE
        ]
        marks += [Mark((box * scale).tolist(), "", TRUTH, dashed=True) for box in truth.boxes]
        cell = Image.fromarray(draw_boxes(pixels, marks, text=TEXT))
        cell.thumbnail((CELL - 8, CELL - 8))
        return cell

    def _reduced(self, i: int) -> tuple[np.ndarray, float]:
        """The image with no side above CELL, and its scale; cached, since decoding takes longer than drawing."""
        if i not in self._small:
            image = Image.fromarray(self.images.image(i))
            scale = min(1.0, CELL / max(image.size))
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            self._small[i] = np.asarray(image.resize(size, reducing_gap=2.0) if scale < 1 else image), scale
        return self._small[i]


def spread(objects: np.ndarray, count: int = COUNT) -> list[int]:
    """Positions of `count` images spread evenly over a set, in order. objects: number per image; images with objects
    are preferred."""
    filled, empty = np.flatnonzero(objects), np.flatnonzero(objects == 0)
    chosen = filled[np.linspace(0, len(filled) - 1, min(count, len(filled))).round().astype(int)]
    rest = empty[np.linspace(0, len(empty) - 1, min(count - len(chosen), len(empty))).round().astype(int)]
    return sorted([*chosen.tolist(), *rest.tolist()])
