"""The pictures of a run: curves, confusion matrix, worst mistakes, one prediction.

matplotlib is used through its objects only (`Figure` on the Agg canvas): no pyplot, hence no display, no global state
and no figure left open. It is imported where a figure is made, as that takes a second or two.
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
# With more classes than this a confusion matrix has no room for a name and a count per cell.
NAMED_CLASSES = 30
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
    """Write a PNG. A class name in a script that matplotlib's font lacks is drawn as boxes, without a warning each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path)


def draw_curves(records: Iterable[Mapping[str, Any]]) -> Figure:
    """Loss, learning rate and metrics over steps, from the records of metrics.jsonl.

    Each record has "step", perhaps "phase" ("train", "val"), and any numbers; drawn are loss, lr and METRICS, a line
    for each phase. Undefined values (None, NaN) are left out.
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
    """Centered running mean; at the ends over what there is."""
    kernel = np.ones(2 * (width // 2) + 1)
    return np.convolve(y, kernel, mode="same") / np.convolve(np.ones_like(y), kernel, mode="same")


def draw_confusion(matrix: np.ndarray, classes: Sequence[str], note: str = "") -> Figure:
    """Confusion matrix [K, K], row = true, column = predicted; color is the share of the row. `note` ends the title.

    Up to NAMED_CLASSES classes every cell carries its count. With more, the diagonal would be a thin line on a blank
    square, so the mistakes alone are shown, each block of classes summed into one cell, with the most frequent
    confusions listed beside them.
    """
    matrix = np.asarray(matrix)
    draw = _draw_cells if len(classes) <= NAMED_CLASSES else _draw_blocks
    return draw(matrix, classes, note)


def _draw_cells(matrix: np.ndarray, classes: Sequence[str], note: str) -> Figure:
    k = len(classes)
    names = [shortened(name, 16) for name in classes]
    side = max(4.0, 0.42 * k + 1.2)
    figure = new_figure(side + 0.2, side)
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    # The square root lifts a confusion of 1 % out of the white.
    axes.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1.12)
    size = 9 if k <= 15 else 6.5
    for i, j in zip(*np.nonzero(matrix), strict=True):
        shade = "white" if share[i, j] > 0.3 else (INK if i == j else RED)
        axes.text(j, i, f"{matrix[i, j]}", ha="center", va="center", fontsize=size, color=shade)
    dress(axes, f"Confusion: {np.trace(matrix)} of {matrix.sum()} right{note}", x="predicted", y="true")
    tilt = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 3 else {}
    axes.set_xticks(range(k), names, fontsize=size, **tilt)
    axes.set_yticks(range(k), names, fontsize=size)
    axes.set_xticks(np.arange(k + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(k + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    return figure


def _draw_blocks(matrix: np.ndarray, classes: Sequence[str], note: str, cells: int = 100) -> Figure:
    k = len(classes)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    edges = np.unique(np.linspace(0, k, min(k, cells) + 1).astype(int))
    blocks = np.add.reduceat(np.add.reduceat(wrong, edges[:-1], axis=0), edges[:-1], axis=1)
    figure = new_figure(11, 6.2)
    axes, side = figure.subplots(1, 2, width_ratios=(3, 2))
    from matplotlib.colors import LogNorm

    top = max(2, int(blocks.max()))
    shown = np.ma.masked_equal(blocks, 0)
    image = axes.imshow(shown, cmap="YlOrRd", norm=LogNorm(0.7, top), extent=(0, k, k, 0), interpolation="nearest")
    axes.set_facecolor("#f4f6f8")
    axes.plot([0, k], [0, k], color=INK, linewidth=0.5, alpha=0.4)
    right, total = int(np.trace(matrix)), int(matrix.sum())
    per_cell = "one class a cell" if len(edges) - 1 == k else f"about {k / (len(edges) - 1):.3g} classes a cell"
    dress(axes, f"Mistakes only: {total - right} of {total} ({per_cell}){note}", x="predicted class", y="true class")
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000, 100_000) if t <= top]
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=30, ticks=ticks, format="%d")
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=8, colors=INK, length=0)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    pairs = confused_pairs(wrong, classes, 20)
    dress(side, "Most frequent confusions (true → predicted)")
    side.set_axis_off()
    for row, pair in enumerate(pairs):
        y = 0.97 - row * 0.048
        side.text(0.09, y, f"{pair.count}", transform=side.transAxes, fontsize=8.5, color=RED, ha="right", va="top")
        text = f"{shortened(pair.true, 22)} → {shortened(pair.predicted, 22)}"
        side.text(0.13, y, text, transform=side.transAxes, fontsize=8.5, color=INK, va="top")
    return figure


class Pair(NamedTuple):
    true: str
    predicted: str
    count: int


def confused_pairs(matrix: np.ndarray, classes: Sequence[str], limit: int) -> list[Pair]:
    """The most frequent mistakes of a confusion matrix, most frequent first; the diagonal does not count."""
    wrong = np.array(matrix)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    rows, columns = np.unravel_index(order, wrong.shape)
    return [
        Pair(classes[int(i)], classes[int(j)], int(wrong[i, j]))
        for i, j in zip(rows, columns, strict=True)
        if wrong[i, j]
    ]


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
    # Small images are enlarged with hard pixels, as the model sees them; large ones need smoothing.
    axes.imshow(image, interpolation="nearest" if max(image.shape[:2]) <= 64 else "antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(FAINT)


def _squared(image: np.ndarray) -> np.ndarray:
    """Centered on a light square: tiles of one size stay in rows, whatever the shapes of the images."""
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
    """A name that fits, and that matplotlib prints as it is: a $ would start a formula."""
    if len(name) > limit:
        name = "…" + name[1 - limit :] if keep_end else name[: limit - 1] + "…"
    return name.replace("$", r"\$")
