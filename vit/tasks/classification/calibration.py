"""Temperature scaling: one number calibrates confidences without changing any prediction.

Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks", section 4.2: divide all logits by T,
with T fitted on validation by maximum likelihood. The negative log likelihood of softmax(s z), or of sigmoid(s z), is
convex in s = 1/T, so Newton's method inside a bracket finds the minimum in a few steps, without a learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# The search range of s = 1/T; its bound is returned for a model that would need more.
BRACKET = (1 / 50, 50.0)
STEPS = 100  # bisection alone halves the bracket to float64's resolution in about 60


@dataclass(frozen=True)
class Outputs:
    """The logits of a model on a split, on the CPU, in the order of the batches."""

    logits: Tensor
    """float32 [n, K]"""
    targets: Tensor
    """int64 [n], or float32 [n, K] when multi-label."""
    index: Tensor
    """int64 [n]: position in the split; shorter than the split if some images could not be read."""

    @property
    def multilabel(self) -> bool:
        return self.targets.ndim == 2


@torch.no_grad()
def fit_temperature(logits: Tensor, targets: Tensor) -> float | None:
    """The temperature T > 0 that minimizes the negative log likelihood of `targets`.

    Args:
        logits: float [n, K]; rows with a non-finite value are ignored.
        targets: int64 [n], or 0/1 [n, K] for multi-label (sigmoids).

    Returns:
        T, or None if no finite T is optimal: no rows, one class only, every prediction right (T -> 0) or logits no
        better than chance (T -> infinity).
    """
    finite = logits.isfinite().all(1)
    z, y = logits[finite].cpu().double(), targets[finite].cpu()
    if not len(z):
        return None
    if _slope(z, y, 0.0)[0] >= 0 or _slope(z, y, None)[0] <= 0:
        return None
    low, high = BRACKET
    s = 1.0
    for _ in range(STEPS):
        slope, curvature = _slope(z, y, s)
        if slope > 0:
            high = s
        else:
            low = s
        step = s - slope / curvature if curvature > 0 else low
        new = step if low < step < high else (low + high) / 2
        if abs(new - s) <= 1e-12 * s:
            break
        s = new
    return 1 / s


def _slope(z: Tensor, y: Tensor, s: float | None) -> tuple[float, float]:
    """First and second derivative in s of the mean negative log likelihood; s = None means s -> infinity."""
    if y.ndim == 1:
        own = z.gather(1, y[:, None].long())[:, 0]
        if s is None:
            return float((z.max(1).values - own).mean()), 0.0
        p = (s * z).softmax(1)
        mean = (p * z).sum(1)
        variance = (p * (z - mean[:, None]).square()).sum(1)
        return float((mean - own).mean()), float(variance.mean())
    if s is None:
        return float((z.clamp(min=0) - y * z).mean()), 0.0
    p = (s * z).sigmoid()
    return float(((p - y) * z).mean()), float((p * (1 - p) * z.square()).mean())
