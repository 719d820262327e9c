"""Contestants that take turns in one process, so that a slow moment of a shared machine hits all of them, and what may
be said afterwards: medians, their spread, and ratios.

A ratio is taken within each round, where both ran under the same conditions, and its median over the rounds is told:
times themselves say little on a machine that others use, too.
"""

from __future__ import annotations

import ctypes
import gc
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from vit.model.linear import linear

Clock = Literal["cpu", "wall"]
"""cpu: seconds that the process computed, on all its threads, whatever else the machine did meanwhile. Right for one
thread without waiting; with more, or where waiting is part of the work, as it is for a GPU, only wall time will do."""
CLOCK: Clock = "wall" if torch.cuda.is_available() else "cpu"
LEAST = 0.05
"""Seconds that a turn lasts at least: what is faster is repeated."""


class Figures(NamedTuple):
    """The median, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figures:
        low, median, high = np.quantile(np.asarray(values, float), [0.25, 0.5, 0.75])
        return cls(float(median), float(low), float(high))

    def told(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


class Turns:
    """Seconds of one run of each contestant, round by round."""

    def __init__(self, seconds: Mapping[str, Sequence[float]]):
        self.seconds = {name: list(values) for name, values in seconds.items()}

    def __getitem__(self, name: str) -> Figures:
        return Figures.of(self.seconds[name])

    def ratio(self, name: str, to: str) -> Figures:
        """How many times as long as `to` takes `name`: above 1 `to` is the faster."""
        return Figures.of([a / b for a, b in zip(self.seconds[name], self.seconds[to], strict=True)])

    def fastest(self, names: Sequence[str]) -> str:
        return min(names, key=lambda name: self[name].median)

    def to_dict(self) -> dict[str, Any]:
        return {
            name: {**self[name]._asdict(), "rounds": [round(s, 7) for s in values]}
            for name, values in self.seconds.items()
        }


def take_turns(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 2,
    clock: Clock = "cpu",
    least: float = LEAST,
) -> Turns:
    """Each of `runs` once in every round, in turn, the order reversed from round to round.

    A turn repeats a run until it has lasted for `least` seconds by the last warm-up; the seconds are of one run.
    """
    now = time.process_time if clock == "cpu" else time.perf_counter
    times = {}
    for name, run in runs.items():
        for _ in range(max(1, warmup)):
            begun = now()
            run()
            wait()
            times[name] = max(1, math.ceil(least / max(1e-9, now() - begun)))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        gc.collect()  # between rounds: in the middle of a turn it would hit one of them
        for name in list(runs)[:: -1 if i % 2 else 1]:
            run, n = runs[name], times[name]
            begun = now()
            for _ in range(n):
                run()
            wait()
            seconds[name].append((now() - begun) / n)
    return Turns(seconds)


def wait() -> None:
    """Until the GPU, if there is one, has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory(run: Callable[[], object]) -> int | None:
    """Bytes that `run` takes at its peak above what was in use before: of the GPU's allocator, or of this process.

    None where there is neither a GPU nor Linux, which alone tells a process its peak."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        wait()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    try:
        # What earlier runs left to the allocator would be used again and not be counted.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        run()
        return max(0, _status("VmHWM") - before)
    except OSError:
        return None


def _status(name: str) -> int:
    """Bytes, of a line of /proc/self/status."""
    match = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if match is None:
        raise OSError(name)
    return int(match[1]) * 1024


def matrix_peak(dtype: torch.dtype = torch.float32, side: int | None = None) -> tuple[Callable[[], object], float]:
    """A product of two square matrices, to run among the contestants, and its floating-point operations: what this
    machine reaches when there is nothing but arithmetic, by the library that is faster on it. side: 1,024, and 8,192
    on a GPU, if left out."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = side or (8192 if device == "cuda" else 1024)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return lambda: linear(a, b), 2.0 * side**3


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """p of values ~ sizes^p, by least squares over the logarithms."""
    return float(np.polyfit(np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float)), 1)[0])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
