"""Brightness, contrast, saturation and hue as one matrix, since all four are linear in a pixel's color."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in a gray value (ITU-R BT.601, as Pillow's "L")."""
_TO_YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def color_matrix(
    mean: Sequence[float], brightness: float, contrast: float, saturation: float, hue: float = 0.0
) -> np.ndarray:
    """float64 [3, 4]: a pixel (r, g, b, 1) of an image with this mean color -> its new (r, g, b).

    brightness, contrast, saturation: factors as in torchvision's ColorJitter, 1 for no change; contrast pulls toward
    the mean gray of the image. Their order does not matter, since nothing is clipped in between. hue: fraction of a
    full rotation around the gray axis, from red to yellow (in YIQ, as in NVIDIA DALI).
    """
    linear = saturation * np.eye(3) + (1 - saturation) * LUMA
    if hue:
        cosine, sine = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue)
        turn = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])
        linear = linear @ (_FROM_YIQ @ turn @ _TO_YIQ)
    offset = (1 - contrast) * brightness * float(LUMA @ np.asarray(mean))
    return np.concatenate([brightness * contrast * linear, np.full((3, 1), offset)], axis=1)
