"""The evaluation loop, shared by training, `vitral eval` and the final report, so that their metrics agree.

Each task's own `evaluate.py` turns the metrics into a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vit.errors import UserError, shown
from vit.processes.signals import Stop
from vit.processes.world import ALONE, World
from vit.runs.background import snapshot
from vit.tasks.precision import autocast
from vit.tasks.task import Metrics


@dataclass
class Evaluation:
    """The metrics of one split, and what they were computed from."""

    result: dict[str, Any]
    """Plain values, as in report.json."""
    metrics: Any
    index: list[int]
    """Position in the split of each evaluated image."""
    images: Any
    """The split."""


def evaluate(
    model: nn.Module,
    predict: Callable[[Any], Any],
    batches: Iterable[Any],
    metrics: Metrics,
    *,
    amp: torch.dtype | None = None,
    world: World = ALONE,
    stop: Stop | None = None,
    tick: Callable[[int], None] | None = None,
) -> tuple[Metrics, list[int]]:
    """Evaluate all batches of all processes; the metrics, and the index of every image.

    Each image counts once, in the order of its index, as in a single process. The model's mode is restored afterward.
    predict: a batch -> outputs for `metrics.update`. tick: called with the number of images done so far.
    """
    modes = {module: module.training for module in model.modules()}
    device, stop, index = next(model.parameters()).device, stop or Stop(), []
    model.eval()
    try:
        # Parameters that FSDP2 gathers must not become inference tensors: training could not use them later.
        with torch.no_grad() if world.sharded else torch.inference_mode(), autocast(device, amp):
            for batch in world.together(until_stopped(batches, stop), stop, device):
                outputs = predict(batch)
                if batch.targets is None:
                    continue
                metrics.update(outputs, batch.targets)
                index += batch.index.tolist()
                if tick is not None:
                    tick(len(index))
    finally:
        for module, training in modes.items():
            module.training = training
    if world.size == 1:
        return metrics, index
    gathered = world.gather((snapshot(metrics.state()), index))
    index = [row for _, rows in gathered for row in rows]
    order = sorted(range(len(index)), key=index.__getitem__)
    return metrics.merged([state for state, _ in gathered], order), sorted(index)


def until_stopped(batches: Iterable[Any], stop: Stop) -> Generator[Any]:
    """The batches. A signal interrupts the wait for the next one."""
    iterator = iter(batches)
    while True:
        with stop.waiting():
            try:
                batch = next(iterator)
            except StopIteration:
                return
        yield batch


def split_of(data: Any, requested: str | None) -> str:
    """The split to evaluate: `requested`, else test, else val. Raises UserError if the data has no such split."""
    splits = data.splits()
    split = requested or next((name for name in ("test", "val") if name in splits), "test")
    if split not in splits:
        available = shown([f"{name} ({len(images)} images)" for name, images in splits.items()])
        raise UserError(f"{data.source} has no {split} split; it has {available}. Try --split {next(iter(splits))}.")
    return split


def is_better(value: float | None, best: float | None, *, lower: bool = False) -> bool:
    """Whether `value` beats `best`. Undefined (None, NaN) never does; any defined value beats undefined."""
    if value is None or math.isnan(value):
        return False
    if best is None or math.isnan(best):
        return True
    return value < best if lower else value > best
