"""The figures of a run: curves, worst mistakes, one prediction; the confusion matrix is in `vit.report.confusion`.

matplotlib is used without pyplot (`Figure` on the Agg canvas): no display, no global state, no figure left open. It is
imported where a figure is made, as the import takes a second or two.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, PAPER = "#22303c", "#d9dee3", "#ffffff"
BLUE, ORANGE, GREEN, RED, VIOLET = "#2f6db3", "#d9772b", "#3a8f5c", "#c0392b", "#7b5ea7"
DPI = 150
# A curve of more points than this is drawn as its running mean over a faint original.
SMOOTH_FROM = 60
METRICS = ("top1", "top5", "macro_f1", "micro_f1", "map", "map50")


def new_figure(width: float, height: float) -> Figure:
    """A blank figure of width x height inches; `.savefig(path)` writes it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG. Characters that matplotlib's font lacks are drawn as boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path)


def draw_curves(records: Iterable[Mapping[str, Any]]) -> Figure:
    """Loss, learning rate and metrics over steps, from the records of metrics.jsonl.

    Each record has "step", perhaps "phase" ("train", "val"), and numbers. Loss, lr and METRICS are drawn, one line for
    each phase. Undefined values (None, NaN) are left out.
    """
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {"loss": {}, "metric": {}, "lr": {}}
    for record in records:
        for key, value in record.items():
            panel = "metric" if key in METRICS else key
            if panel in panels and isinstance(value, int | float) and math.isfinite(value):
                line = f"{record['phase']} {key}" if "phase" in record else key
                panels[panel].setdefault(line, []).append((record["step"], value))
    figure = new_figure(11, 3.4)
    titles = {"loss": "Loss", "metric": "Validation", "lr": "Learning rate"}
    for axes, (panel, series) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        dress(axes, titles[panel], x="step")
        _draw_series(axes, series)
        if panel == "lr":
            axes.set_ylim(bottom=0)
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
            axes.yaxis.get_offset_text().set_fontsize(8)
    return figure


def _draw_series(axes: Axes, series: Mapping[str, list[tuple[float, float]]]) -> None:
    colors = (BLUE, ORANGE, GREEN, VIOLET, RED, INK)
    for (key, points), color in zip(series.items(), colors * 5, strict=False):
        x, y = np.array(sorted(points)).T
        if len(x) > SMOOTH_FROM and key.endswith("loss"):
            axes.plot(x, y, color=color, linewidth=0.7, alpha=0.25)
            y = _smooth(y, len(x) // 30)
        axes.plot(x, y, color=color, linewidth=1.6, label=key, marker="o" if len(x) < 30 else None, markersize=3)
    axes.margins(x=0.02)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    elif series:
        axes.set_ylabel(next(iter(series)), fontsize=9, color=INK)
    else:
        axes.text(0.5, 0.5, "nothing recorded", ha="center", va="center", transform=axes.transAxes, color=INK)
        axes.set_xticks([])
        axes.set_yticks([])


def _smooth(y: np.ndarray, width: int) -> np.ndarray:
    """Centered running mean; at the ends, over the values that exist."""
    kernel = np.ones(2 * (width // 2) + 1)
    return np.convolve(y, kernel, mode="same") / np.convolve(np.ones_like(y), kernel, mode="same")


class Tile(NamedTuple):
    """One wrong answer for `draw_mistakes`."""

    image: np.ndarray
    """uint8 [H, W, 3] of any size."""
    true: str
    predicted: str
    score: float
    name: str
    """The file."""


def draw_mistakes(tiles: Sequence[Tile], columns: int = 6) -> Figure:
    """Wrongly classified images, in the order given, each with its true and predicted class and the score."""
    if not tiles:
        figure = new_figure(6, 1.2)
        figure.text(0.5, 0.5, "No mistakes.", ha="center", va="center", fontsize=13, color=GREEN)
        return figure
    columns = min(columns, max(3, len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    figure = new_figure(1.75 * columns, 2.35 * rows + 0.35)
    figure.suptitle("Worst mistakes: wrong with the most confidence", x=0.01, ha="left", fontsize=11, color=INK)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, tile in zip(grid, tiles, strict=False):
        show_pixels(axes, _squared(tile.image))
        axes.set_title(f"says {shortened(tile.predicted, 13)}, {tile.score:.0%}\n", fontsize=8.5, color=RED, pad=0)
        true = f"is {shortened(tile.true, 19)}"
        axes.text(0.5, 1.03, true, transform=axes.transAxes, ha="center", fontsize=8.5, color=GREEN)
        axes.set_xlabel(shortened(tile.name, 26, keep_end=True), fontsize=6.5, color="#6b7780")
    for axes in grid[len(tiles) :]:
        axes.set_axis_off()
    return figure


def draw_prediction(image: np.ndarray, scored: Sequence[tuple[str, float]]) -> Figure:
    """An image uint8 [H, W, 3] beside bars of its best (label, score) pairs, best first."""
    figure = new_figure(6.4, max(2.4, 0.36 * len(scored) + 0.6))
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    show_pixels(left, image)
    names = [shortened(label, 24) for label, _ in scored]
    scores = [score for _, score in scored]
    right.barh(range(len(scored)), scores, color=[BLUE] + ["#a9c4e0"] * (len(scored) - 1), height=0.62)
    for i, score in enumerate(scores):
        right.text(score + 0.015, i, f"{score:.1%}", va="center", fontsize=8.5, color=INK)
    right.set_yticks(range(len(scored)), names)
    right.invert_yaxis()
    right.set_xlim(0, 1.14)
    dress(right, "")
    right.tick_params(axis="y", labelsize=9)
    right.set_xticks([])
    right.spines["bottom"].set_visible(False)
    return figure


def show_pixels(axes: Axes, image: np.ndarray) -> None:
    # Small images are enlarged without smoothing, as the model sees them.
    axes.imshow(image, interpolation="nearest" if max(image.shape[:2]) <= 64 else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(FAINT)


def _squared(image: np.ndarray) -> np.ndarray:
    """Centered on a light square, so that images of any shape make tiles of one size."""
    h, w = image.shape[:2]
    canvas = np.full((max(h, w), max(h, w), 3), 0xF0, np.uint8)
    top, left = (max(h, w) - h) // 2, (max(h, w) - w) // 2
    canvas[top : top + h, left : left + w] = image
    return canvas


def dress(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)


def shortened(name: str, limit: int, *, keep_end: bool = False) -> str:
    """A name of at most `limit` characters, with $ escaped: to matplotlib, it starts a formula."""
    if len(name) > limit:
        name = "…" + name[1 - limit :] if keep_end else name[: limit - 1] + "…"
    return name.replace("$", r"\$")
