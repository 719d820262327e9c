"""The confusion matrix as a figure, and its most frequent mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vit.report.plots import INK, RED, dress, new_figure, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# With more classes than this, names and counts do not fit.
NAMED_CLASSES = 30


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
