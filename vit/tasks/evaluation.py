"""The one evaluation: training, `vitral eval` and the report at a run's end all come here, so that their figures agree.

`evaluate` goes over the batches. What a task makes of its metrics stands in the task's own `evaluate.py`.
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
    """The figures of one split, and what they were computed from."""

    result: dict[str, Any]
    """Plain values: report.json."""
    metrics: Any
    index: list[int]
    """Position in the split of each image that was evaluated."""
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
    """Metrics over all batches, those of the other processes among them, and the index of every image: each is counted
    once, in the order of its index, as in one process. `model` is in its former mode afterwards.

    predict: a batch -> what `metrics.update` takes. tick: is called with the number of images done so far.
    """
    modes = {module: module.training for module in model.modules()}
    device, stop, index = next(model.parameters()).device, stop or Stop(), []
    model.eval()
    try:
        # What FSDP2 brings together must not become tensors of inference, which no later pass could use.
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
    found = world.gather((snapshot(metrics.state()), index))
    index = [row for _, own in found for row in own]
    order = sorted(range(len(index)), key=index.__getitem__)
    return metrics.merged([state for state, _ in found], order), sorted(index)


def until_stopped(batches: Iterable[Any], stop: Stop) -> Generator[Any]:
    """The batches; waiting for one ends when a signal comes."""
    iterator = iter(batches)
    while True:
        with stop.waiting():
            try:
                batch = next(iterator)
            except StopIteration:
                return
        yield batch


def split_of(data: Any, wanted: str | None) -> str:
    """The split to evaluate: `wanted`, else test, else val. Raises UserError where the data has no such split."""
    splits = data.splits()
    split = wanted or next((name for name in ("test", "val") if name in splits), "test")
    if split not in splits:
        has = shown([f"{name} ({len(images)} images)" for name, images in splits.items()])
        raise UserError(f"{data.source} has no {split} split; it has {has}. Try --split {next(iter(splits))}.")
    return split


def is_better(value: float | None, best: float | None, *, lower: bool = False) -> bool:
    """Whether `value` beats `best`. Undefined (None, NaN) never does, and anything defined beats undefined."""
    if value is None or math.isnan(value):
        return False
    if best is None or math.isnan(best):
        return True
    return value < best if lower else value > best
