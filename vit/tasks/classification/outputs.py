"""A model and batches -> all its logits -> the figures of a report. `train.py` and `eval.py` both come here.

The logits of a whole split are kept (50,000 images of 1,000 classes are 200 MB): calibration, the worst mistakes and
test-time augmentation all need them together, and no figure can then depend on the size of a batch.

Letters: n images, B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vit.tasks.classification.calibration import fit_temperature
from vit.tasks.classification.metrics import ClassificationMetrics

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Outputs:
    """What a model said about a split, on the CPU, in the order of the batches."""

    logits: Tensor
    """float32 [n, K]"""
    targets: Tensor
    """int64 [n], or float32 [n, K] when multi-label."""
    index: Tensor
    """int64 [n]: position in the split; fewer than the split holds when some images could not be read."""

    @property
    def multilabel(self) -> bool:
        return self.targets.ndim == 2


@torch.no_grad()
def collect(
    forward: Forward, batches: Iterable[tuple[Tensor, Tensor, Tensor]], tick: Callable[[int], None] | None = None
) -> Outputs | None:
    """Run `forward` (images float32 [B, 3, H, W] -> logits [B, K]) over batches of (images, targets, index).

    `tick`, if given, is called with the number of images done so far. None when there was not a single image.
    """
    logits, targets, index = [], [], []
    done = 0
    for batch in batches:
        logits.append(forward(batch[0]).float().cpu())
        targets.append(batch[1].cpu())
        index.append(batch[2].cpu())
        done += len(index[-1])
        if tick is not None:
            tick(done)
    return Outputs(torch.cat(logits), torch.cat(targets), torch.cat(index)) if done else None


def summarise(
    outputs: Outputs | None,
    classes: Sequence[str],
    *,
    multilabel: bool = False,
    temperature: float | None = None,
) -> dict[str, Any]:
    """`ClassificationMetrics.compute` and, with a temperature, `ece_calibrated`: the ECE after dividing by it.

    With no outputs at all every figure is None: undefined, not zero.
    """
    metrics = ClassificationMetrics(classes, multilabel)
    if outputs is not None:
        metrics.update(outputs.logits, outputs.targets)
    result = metrics.compute()
    result["temperature"] = temperature
    result["ece_calibrated"] = None
    if outputs is not None and temperature is not None:
        scaled = ClassificationMetrics(classes, multilabel)
        scaled.update(outputs.logits / temperature, outputs.targets)
        result["ece_calibrated"] = scaled.scalars()["ece"]
    return result


def temperature_of(outputs: Outputs | None) -> float | None:
    """Fitted on (validation) outputs; None where they determine none."""
    return fit_temperature(outputs.logits, outputs.targets) if outputs is not None else None


@dataclass(frozen=True)
class Mistake:
    index: int
    """Position in the split."""
    true: int
    predicted: int
    score: float
    """Probability given to the predicted class."""


def worst_mistakes(outputs: Outputs, limit: int = 24, temperature: float | None = None) -> list[Mistake]:
    """The wrong answers given with the most confidence, worst first. Empty for multi-label."""
    if outputs.multilabel:
        return []
    finite = outputs.logits.isfinite().all(1)
    best = (outputs.logits / (temperature or 1.0)).softmax(1).max(1)
    wrong = (best.indices != outputs.targets) & finite
    order = torch.where(wrong, best.values, -1.0).argsort(descending=True, stable=True)[: int(wrong.sum())]
    return [
        Mistake(int(outputs.index[i]), int(outputs.targets[i]), int(best.indices[i]), float(best.values[i]))
        for i in order[:limit].tolist()
    ]
