"""RandAugment and 3-Augment on uint8 arrays. Needs OpenCV.

Each operation is torchvision's of the same name (RandAugment: linear interpolation where it warps).
"""

from __future__ import annotations

import cv2
import numpy as np

from vit.data.augment.color import color_matrix

# Workers already use one core each, and OpenCV's threads hang in forked workers.
cv2.setNumThreads(0)

FILL = 128
"""Gray value of pixels that a warp leaves empty."""
STEPS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "saturation", "contrast",
    "sharpness", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def randaugment(pixels: np.ndarray, count: int, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    """Apply `count` of STEPS, drawn with replacement, at a magnitude in 0..1 with a random sign: uint8 [H, W, 3] -> the
    same (Cubuk et al. 2020, arXiv:1909.13719; its 14 operations and full strengths)."""
    for which, sign in rng.random((count, 2)).tolist():
        step = STEPS[int(which * len(STEPS))]
        pixels = operation(pixels, step, magnitude if sign < 0.5 else -magnitude)
    return pixels


def operation(pixels: np.ndarray, step: str, m: float) -> np.ndarray:
    """Apply one of STEPS at m, in -1..1, of its full strength."""
    h, w = pixels.shape[:2]
    if step in ("shear_x", "shear_y"):
        # The upper left corner is fixed, as in the original code, not the center.
        lean, half = -0.3 * m, -0.15 * m
        return _warped(pixels, [[1, lean, half], [0, 1, 0]] if step == "shear_x" else [[1, 0, 0], [lean, 1, half]])
    if step in ("translate_x", "translate_y"):
        x, y = (150 / 331 * m * w, 0.0) if step == "translate_x" else (0.0, 150 / 331 * m * h)
        return _warped(pixels, [[1, 0, int(x)], [0, 1, int(y)]])
    if step == "rotate":
        return _warped(pixels, cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), 30 * m, 1.0))
    if step in ("brightness", "saturation", "contrast"):
        return recolored(pixels, **{**_SAME, step: 1 + 0.9 * m})
    if step == "sharpness":
        return _sharpened(pixels, 1 + 0.9 * m)
    if step == "posterize":
        return pixels & np.uint8(256 - (1 << round(4 * abs(m))))
    if step == "solarize":
        return solarized(pixels, round(255 * (1 - abs(m))))
    if step == "autocontrast":
        return _mapped(pixels, _stretch)
    if step == "equalize":
        return _mapped(pixels, _equal)
    return pixels


def three_augment(pixels: np.ndarray, which: float, strength: float) -> np.ndarray:
    """Grayscale, solarize or blur (DeiT III, Touvron et al. 2022, arXiv:2204.07118, section 3.2).

    which, strength: uniform in 0..1; the blur's sigma is 0.1 to 2 pixels.
    """
    if which < 1 / 3:
        return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if which < 2 / 3:
        return solarized(pixels, 128)
    return cv2.GaussianBlur(pixels, (0, 0), 0.1 + 1.9 * strength, borderType=cv2.BORDER_REPLICATE)


_SAME = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}


def recolored(
    pixels: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float = 0.0
) -> np.ndarray:
    """Apply `vit.data.augment.color.color_matrix`."""
    return cv2.transform(pixels, color_matrix(cv2.mean(pixels)[:3], brightness, contrast, saturation, hue))


def solarized(pixels: np.ndarray, threshold: int) -> np.ndarray:
    """Invert values at or above the threshold."""
    values = np.arange(256)
    return cv2.LUT(pixels, np.where(values < threshold, values, 255 - values).astype(np.uint8))


def mirrored(pixels: np.ndarray) -> np.ndarray:
    return cv2.flip(pixels, 1)


def blended(one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """share * one + (1 - share) * other"""
    return cv2.addWeighted(one, share, other, 1 - share, 0)


def _warped(pixels: np.ndarray, matrix: list[list[float]] | np.ndarray) -> np.ndarray:
    size = (pixels.shape[1], pixels.shape[0])
    return cv2.warpAffine(
        pixels, np.asarray(matrix, np.float64), size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
        borderValue=(FILL, FILL, FILL),
    )  # fmt: skip


def _sharpened(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Move away from a smoothed copy (factor above 1) or toward it; border pixels are unchanged."""
    if min(pixels.shape[:2]) < 3:
        return pixels
    changed = cv2.addWeighted(pixels, factor, cv2.filter2D(pixels, -1, _SMOOTH), 1 - factor, 0)
    changed[[0, -1]], changed[:, [0, -1]] = pixels[[0, -1]], pixels[:, [0, -1]]
    return changed


def _mapped(pixels: np.ndarray, table: object) -> np.ndarray:
    """Map each channel by a table made from its histogram."""
    tables = [table(np.bincount(pixels[:, :, k].ravel(), minlength=256)) for k in range(3)]  # pyright: ignore
    return cv2.LUT(pixels, np.stack(tables, axis=-1)[None])


def _stretch(histogram: np.ndarray) -> np.ndarray:
    """Map the darkest value to 0, the brightest to 255."""
    used = np.flatnonzero(histogram)
    low, high = int(used[0]), int(used[-1])
    if low == high:
        return np.arange(256, dtype=np.uint8)
    return np.clip((np.arange(256) - low) * (255 / (high - low)), 0, 255).astype(np.uint8)


def _equal(histogram: np.ndarray) -> np.ndarray:
    """Equalize the histogram, as Pillow's ImageOps.equalize."""
    used = histogram[histogram > 0]
    step = (int(used.sum()) - int(used[-1])) // 255
    if len(used) <= 1 or step == 0:
        return np.arange(256, dtype=np.uint8)
    before = np.cumsum(histogram) - histogram
    return np.clip((before + step // 2) // step, 0, 255).astype(np.uint8)
