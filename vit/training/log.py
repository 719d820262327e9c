"""The log of a training run: rows in metrics.jsonl and metrics.csv, TensorBoard, and lines on the screen.

A row is {"step", "epoch", "phase": "train" | "val", ...numbers}.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vit.report.plots import draw_curves, save

SPIKE_ROWS = 20
"""Number of training rows that a loss is compared with."""


class RunLog:
    """Use as a context manager. start: the step that a resumed run continues from; judged: the step of its last
    evaluation (default: `start`). Later rows are removed."""

    def __init__(
        self, folder: Path, *, steps: int, start: int = 0, judged: int | None = None, console: Console | None = None
    ):
        self.folder, self.steps = folder, steps
        self.console = console or Console(highlight=False, soft_wrap=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._jsonl = folder / "metrics.jsonl"
        self.rows = _until(read_rows(self._jsonl), start, start if judged is None else judged) if start else []
        _replace(self._jsonl, "".join(_json_line(row) for row in self.rows))
        self._bar = Progress(
            TextColumn("{task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}% {task.fields[rate]} loss {task.fields[loss]} lr {task.fields[lr]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._line = self._bar.add_task("train", total=steps, completed=start, epoch="", rate="", loss="-", lr="-")
        self._board = _tensorboard(folder, start)

    def __enter__(self) -> RunLog:
        self._bar.start()
        self._started, self._done = time.perf_counter(), 0
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bar.stop()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            place = shlex.quote(str(self.folder))
            self.say(f"Stopped. The same command with --out {place} --resume continues from the last checkpoint.")
        self.write_csv()
        if self._board is not None:
            self._board.close()

    def train(self, row: dict[str, Any], *, steps_done: int) -> None:
        """Log a row of training numbers after `steps_done` steps; the first one also logs the time left."""
        before = [r["loss"] for r in self.rows[-2 * SPIKE_ROWS :] if r["phase"] == "train"]
        self._add({"phase": "train", **row})
        if note := spike(before, row):
            self.say(note)
        if not self._done and (left := self.steps - row["step"]):
            self.say(f"{left:,} steps left, about {_clock(self._elapsed / steps_done * left)} at this speed.")
        self._done = steps_done
        self._bar.update(
            self._line,
            completed=row["step"],
            epoch=f"epoch {row['epoch']:.1f}",
            rate=f"{row['images_per_second']:.0f} img/s",
            loss="-" if row["loss"] is None else f"{row['loss']:.3f}",
            lr=f"{row['lr']:.1e}",
        )

    def val(self, row: dict[str, Any], line: str) -> None:
        """Log a row of validation numbers; prints `line` with the time left."""
        self._add({"phase": "val", **row})
        left = self._elapsed / max(1, self._done) * (self.steps - row["step"])
        self.say(f"{line}  {_clock(self._elapsed)}, {_clock(left)} left")
        self.write_csv()

    def cut(self, step: int, judged: int) -> None:
        """Remove rows after `step`, and evaluations after `judged`, when the run returns to an earlier step."""
        self.rows = _until(self.rows, step, judged)
        _replace(self._jsonl, "".join(_json_line(row) for row in self.rows))
        self._bar.update(self._line, completed=step)

    @property
    def _elapsed(self) -> float:
        return time.perf_counter() - self._started

    def say(self, line: str) -> None:
        self.console.print(line, markup=False)

    def write_csv(self) -> None:
        """Write the rows to metrics.csv, one column per name."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        temporary = self.folder / "metrics.csv.new"
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, self.folder / "metrics.csv")

    def _add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self._jsonl.open("a", encoding="utf-8") as file:
            file.write(_json_line(row))
        if self._board is not None:
            for key, value in row.items():
                if isinstance(value, int | float) and key not in ("step", "epoch"):
                    self._board.add_scalar(f"{row['phase']}/{key}", value, row["step"])


def spike(before: Sequence[float | None], row: dict[str, Any]) -> str | None:
    """A warning if the loss of `row` exceeds the median of the last SPIKE_ROWS by ten times their median absolute
    deviation and by half; else None."""
    recent = [loss for loss in before if loss is not None][-SPIKE_ROWS:]
    if row["loss"] is None or len(recent) < SPIKE_ROWS // 2:
        return None
    middle = median(recent)
    spread = median(abs(loss - middle) for loss in recent)
    if row["loss"] <= max(middle + 10 * spread, 1.5 * middle):
        return None
    return f"Loss spike: {row['loss']:.3f} up to step {row['step']}, {middle:.3f} before."


class Silent(RunLog):
    """A log that discards everything, for processes other than the main one."""

    def __init__(self, steps: int):
        self.steps = steps

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None: ...
    def train(self, row: dict[str, Any], *, steps_done: int) -> None: ...
    def val(self, row: dict[str, Any], line: str) -> None: ...
    def cut(self, step: int, judged: int) -> None: ...
    def say(self, line: str) -> None: ...


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, up to a line that a crash cut short."""
    if not file.is_file():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def write_curves(folder: str | Path) -> Path:
    """Draw curves.png from the metrics.jsonl of a run folder; the path."""
    path = Path(folder) / "curves.png"
    save(draw_curves(read_rows(path.with_name("metrics.jsonl"))), path)
    return path


def _until(rows: list[dict[str, Any]], step: int, judged: int) -> list[dict[str, Any]]:
    return [row for row in rows if row["step"] <= (judged if row["phase"] == "val" else step)]


def _json_line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _replace(file: Path, text: str) -> None:
    temporary = file.with_name(file.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, file)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _tensorboard(folder: Path, start: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=start or None)
