"""Plots of a detector's report: precision and recall, predictions beside the truth, the worst images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from vit.images.draw import Color, Mark, color_of, draw_boxes
from vit.report.plots import (
    BLUE,
    DPI,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    RED,
    VIOLET,
    dress,
    new_figure,
    shortened,
    show_pixels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vit.tasks.detection.curves import Matched

NAMED = 10
"""Up to this many classes, each curve is colored and named."""
WIDTH = 12.0
"""Width of a page of images, in inches."""
LARGEST = 1000
"""Maximum side of an image on a page, in pixels: a dozen camera photographs would fill the memory."""
TEXT = 1 / 28
"""Text height as a fraction of an image's longer side."""
RIGHT: Color = (90, 210, 120)
WRONG: Color = (255, 80, 60)
MISSED: Color = (255, 220, 0)


class Scene(NamedTuple):
    """One image of a report, with its objects and the detections above the threshold, best first."""

    image: np.ndarray
    """uint8 [h, w, 3]"""
    name: str
    truth: list[tuple[tuple[float, ...], int, bool]]
    """(xyxy in pixels of `image`, label, whether it was found) of every object except crowds."""
    found: list[tuple[tuple[float, ...], int, float, bool]]
    """(xyxy, label, score, whether it is right)"""


def draw_precision_recall(result: dict[str, Any], classes: Sequence[str]) -> Figure:
    """Precision over recall, and metrics over the score threshold. result: from `DetectionMetrics.compute`."""
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    recalls = np.linspace(0, 1, 101)
    dress(left, "Precision over recall", x="recall", y="precision")
    named = len(classes) <= NAMED
    for k, curve in enumerate(result["curves"]["precision"]):
        if curve is not None:
            color = tuple(channel / 255 * 0.85 for channel in color_of(k)) if named else "#9fb3c8"
            ap50 = _percent(result["per_class"][classes[k]]["ap50"])
            label = f"{shortened(classes[k], 18)}  {ap50}" if named else None
            left.plot(recalls, curve, color=color, linewidth=1, alpha=0.9 if named else 0.35, label=label)
    for key, color, title in (("map50", INK, "IoU .5"), ("map75", BLUE, "IoU .75"), ("map", VIOLET, "IoU .5 to .95")):
        curve = result["curves"]["mean"][key]
        if curve is not None:
            left.plot(recalls, curve, color=color, linewidth=2.2, label=f"mean, {title}  {_percent(result[key])}")
    dress(right, "Effect of the score threshold (all classes, IoU .5)", x="score threshold")
    for key, color in (("precision", BLUE), ("recall", ORANGE), ("f1", GREEN)):
        values = [np.nan if v is None else v for v in result["curves"]["threshold"][key]]
        right.plot(recalls, values, color=color, linewidth=1.8, label="F1" if key == "f1" else key)
    if result["best_threshold"] is not None:
        text = f"best F1 {_percent(result['best_f1'])} at {result['best_threshold']:.2f}"
        right.axvline(result["best_threshold"], color=GREEN, linewidth=1, linestyle=":", label=text)
    if result["threshold"] != result["best_threshold"]:
        text = f"in use: {result['threshold']:.2f}"
        right.axvline(result["threshold"], color=INK, linewidth=1, linestyle="--", label=text)
    for axes in (left, right):
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(0, 1.03)
        axes.grid(color=FAINT, linewidth=0.6)
        if axes.lines:
            axes.legend(fontsize=7.5, frameon=False, labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_predictions(scenes: Sequence[Scene], classes: Sequence[str], columns: int = 3) -> Figure:
    """Each image twice: with its true boxes and with the predicted ones, in the classes' colors."""
    pictures = []
    for scene in scenes:
        truth = [Mark(box, classes[label], color_of(label)) for box, label, _ in scene.truth]
        found = [Mark(box, f"{classes[label]} {score:.2f}", color_of(label)) for box, label, score, _ in scene.found]
        pair = [draw_boxes(scene.image, marks, text=TEXT) for marks in (truth, found)]
        pictures.append((_beside(*pair), scene))
    figure, grid = _grid(pictures, columns, "Each pair: the truth, the prediction")
    for axes, (_, scene) in zip(grid, pictures, strict=False):
        right = sum(ok for *_, ok in scene.found)
        title = f"{right} of {len(scene.truth)} found, {len(scene.found) - right} wrong"
        axes.set_title(title, fontsize=8, color=INK, pad=3)
    return figure


def draw_worst(scenes: Sequence[Scene], classes: Sequence[str], columns: int = 4) -> Figure:
    """Images with most mistakes: right boxes green, wrong ones red with class and score, missed objects dashed."""
    if not scenes:
        figure = new_figure(6, 1.2)
        figure.text(0.5, 0.5, "No mistakes.", ha="center", va="center", fontsize=13, color=GREEN)
        return figure
    pictures = []
    for scene in scenes:
        marks = [
            Mark(box, f"{classes[label]} {score:.2f}", WRONG) for box, label, score, right in scene.found if not right
        ]
        marks += [Mark(box, classes[label], MISSED, dashed=True) for box, label, hit in scene.truth if not hit]
        marks += [Mark(box, "", RIGHT) for box, _, _, right in scene.found if right]
        pictures.append((draw_boxes(scene.image, marks, text=TEXT), scene))
    title = "Most mistakes first: wrong boxes red, missed objects yellow and dashed, right boxes green"
    figure, grid = _grid(pictures, columns, title)
    for axes, (_, scene) in zip(grid, pictures, strict=False):
        wrong, missed = sum(not ok for *_, ok in scene.found), sum(not hit for *_, hit in scene.truth)
        axes.set_title(f"{wrong} wrong, {missed} missed", fontsize=8, color=RED, pad=3)
        axes.set_xlabel(shortened(scene.name, 40, keep_end=True), fontsize=6.5, color="#6b7780")
    return figure


def draw_image(image: np.ndarray) -> Figure:
    """Only an image uint8 [H, W, 3], one dot per pixel unless it is large."""
    height, width = image.shape[:2]
    scale = min(1.0, 14 * DPI / max(height, width)) / DPI
    figure = new_figure(max(1.0, width * scale), max(1.0, height * scale))
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(image, interpolation="antialiased")
    axes.set_axis_off()
    return figure


def scene_of(image: np.ndarray, name: str, truth: Any, found: Any, matched: Matched, threshold: float) -> Scene:
    """truth, found: from `metrics`; matched: from `match_image`. Large images are reduced."""
    scale = min(1.0, LARGEST / max(image.shape[:2]))
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    chosen = matched.scores >= threshold
    rows, objects = matched.rows[chosen], matched.objects[chosen]
    hit = np.isin(np.arange(len(truth.labels)), objects)
    rows_of_truth = zip((truth.boxes * scale).tolist(), truth.labels.tolist(), hit.tolist(), strict=True)
    boxes, labels = (found.boxes[rows] * scale).tolist(), found.labels[rows].tolist()
    return Scene(
        image,
        name,
        [row for row, crowd in zip(rows_of_truth, truth.crowd.tolist(), strict=True) if not crowd],
        list(zip(boxes, labels, found.scores[rows].tolist(), (objects >= 0).tolist(), strict=True)),
    )


def _grid(pictures: Sequence[tuple[np.ndarray, Scene]], columns: int, title: str) -> tuple[Figure, Sequence[Axes]]:
    """A figure with a cell for each picture."""
    columns = min(columns, max(1, len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width = max(WIDTH / columns, 2.2)
    # As tall as the tallest image, up to a limit: one tall strip must not shrink all the others.
    height = width * min(1.3, max(picture.shape[0] / picture.shape[1] for picture, _ in pictures))
    figure = new_figure(width * columns, (height + 0.35) * rows + 0.4)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
    grid: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes, (picture, _) in zip(grid, pictures, strict=False):
        show_pixels(axes, picture)
        axes.spines[:].set_visible(False)
    for axes in grid[len(pictures) :]:
        axes.set_axis_off()
    return figure, grid


def _beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    gap = np.full((left.shape[0], max(4, left.shape[1] // 40), 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.1%}"
