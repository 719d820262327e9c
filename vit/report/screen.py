"""A test report on the screen: figures, a table of classes, remarks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

# With more classes than this, only the hardest are listed.
LISTED_CLASSES = 20
HARDEST = 10
# A longer name is printed in full and shifts the figures of its own line only.
WIDEST = 40


class Summary(NamedTuple):
    title: str
    figures: list[tuple[str, str]]
    """(name, value), the most interesting first."""
    header: list[str]
    rows: list[list[str]]
    """One row for each class, its name first."""
    remarks: list[str]


def print_summary(summary: Summary, console: Console | None = None) -> None:
    """Print tables and colors on a terminal; plain lines, neither wrapped nor cut, in a pipe, file or log."""
    from rich.console import Console

    console = console or Console()
    if console.is_terminal:
        _print_rich(summary, console)
    else:
        for line in summary_lines(summary):
            console.file.write(line + "\n")


def summary_lines(summary: Summary) -> list[str]:
    """Plain text, one figure a line."""
    lines = [summary.title]
    lines += [f"  {name:<22} {value}" for name, value in summary.figures]
    header, rows = summary.header, summary.rows
    width = min(WIDEST, max(len(row[0]) for row in [header, *rows]))
    lines += ["", f"  {header[0]:<{width}} " + " ".join(f"{cell:>9}" for cell in header[1:])]
    lines += [f"  {row[0]:<{width}} " + " ".join(f"{cell:>9}" for cell in row[1:]) for row in rows]
    lines += [f"  {remark}" for remark in summary.remarks]
    return lines


def percent(value: float | None) -> str:
    return "undefined" if value is None or math.isnan(value) else f"{100 * value:.2f} %"


def _print_rich(summary: Summary, console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    figures = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    for i, (name, value) in enumerate(summary.figures):
        figures.add_row(Text(name, style="dim"), Text(value, style="bold green" if i == 0 else ""))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="dim")
    for i, cell in enumerate(summary.header):
        table.add_column(cell, justify="left" if i == 0 else "right", no_wrap=i > 0)
    for row in summary.rows:
        # Text, not markup: a class may be called [red].
        table.add_row(*(Text(cell) for cell in row))
    console.print(Text(summary.title, style="bold"))
    console.print(figures)
    console.print(table)
    for remark in summary.remarks:
        console.print(Text(f" {remark}", style="yellow"))
