"""The worst mistakes of a classifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vit.tasks.classification.metrics import Outputs


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
