"""Smooth L1 (Girshick 2015, equation 3)."""

from torch.nn import functional as F


def loss(numbers, targets, beta):
    """numbers, targets: float [B]."""
    return {"smooth_l1": F.smooth_l1_loss(numbers, targets, beta=beta)}
