"""The one evaluation: training, `vitral eval` and the report at a run's end all come here, so that their figures agree.

`evaluate` goes over the batches. What a task makes of its metrics stands in the task's own `evaluate.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import nn

from vit.errors import UserError, nearest, shown
from vit.processes.signals import Stop
from vit.processes.world import ALONE, World
from vit.runs.background import snapshot
from vit.tasks.precision import autocast
from vit.tasks.task import Metrics


@dataclass(frozen=True)
class EvaluationOptions:
    """How a checkpoint is evaluated."""

    split: Literal["train", "val", "test"] | None = None
    """The split to evaluate. Default: test, or val where the data has no test split."""
    tta: bool = False
    """Look at several scales, and at mirror images where training had them: a classifier's averaged probabilities
    beside the plain figures, a detector's fused boxes in place of them."""
    tta_flip: Literal["auto", "yes", "no"] = "auto"
    """Mirror images in --tta; auto: where the training recipe flipped."""
    knn: int | None = None
    """Also classify by this many nearest neighbors among the train split's features. Public weights, which have no
    head for these classes, are evaluated by that alone."""
    tile: int | None = None
    """A detector also looks at tiles of this side, in pixels of the image."""
    overlap: float | None = None
    """Share of a tile's side that neighboring tiles have in common. Default: 0.2."""
    nms: float | None = None
    """Drop a detector's box that a better one of its class overlaps by more than this IoU."""
    batch_size: int = 64
    """Images in a batch; figures do not depend on it."""
    workers: int = 0
    """Processes that decode images."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0 or (self.knn is not None and self.knn < 1):
            raise UserError("--batch-size and --knn must be at least 1, --workers at least 0.")
        if self.knn is not None and self.split == "train":
            raise UserError("--knn searches the train split: each image would find itself. Use --split test.")

    @classmethod
    def names(cls) -> list[str]:
        return [each.name for each in fields(cls)]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> EvaluationOptions:
        """From options by name. Raises UserError for a name that is none."""
        names = cls.names()
        for name in values:
            if name not in names:
                raise UserError(f"There is no option {name!r}.{nearest(name, names)} Options: {shown(names, 20)}.")
        return cls(**values)

    def refuse(self, whose: str, task: str, **used: object) -> None:
        """Raise UserError for an option in use that is not for this task."""
        for name, value in used.items():
            if value is not None and value is not False:
                raise UserError(f"--{name.replace('_', '-')} is for {task}; {whose} is none.")


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
