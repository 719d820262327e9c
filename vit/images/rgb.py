"""Pixels of any mode and type -> RGB, uint8 [H, W, 3]."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vit.errors import UserError


def to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """A loaded image of any mode -> uint8 [H, W, 3]. Raises UserError where the range of its values is unknown."""
    mode = image.mode
    if mode == "RGB":
        return np.array(image)
    if mode.startswith("I;16"):
        return _gray(_from_16_bit(np.asarray(image).astype(np.uint16)))
    if mode == "I":
        # Pillow stretches a PGM of more than 8 bits to 16; other files do not tell their range.
        values = np.asarray(image)
        return _gray(_from_16_bit(values) if image.format == "PPM" else _from_int32(values, name))
    if mode == "F":
        return _gray(_from_float_file(np.asarray(image), name))
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        # convert("RGB") would uncover the colors of transparent pixels.
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return np.array(Image.alpha_composite(white, layer).convert("RGB"))
    return np.array(image.convert("RGB"))


def _gray(values: np.ndarray) -> np.ndarray:
    """uint8 [H, W] -> [H, W, 3]."""
    return np.repeat(values[:, :, None], 3, axis=2)


def _from_16_bit(values: np.ndarray) -> np.ndarray:
    """65535 -> 255, rounded. Pillow's convert clips at 255 instead, which makes everything white."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_int32(values: np.ndarray, name: str) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UserError(f"{name}: 32-bit values from {low} to {high} have no defined range. Save it with 8 or 16 bits.")
    return values.astype(np.uint8) if high <= 255 else _from_16_bit(values)


def _from_float_file(values: np.ndarray, name: str) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    # NaN fails both comparisons, so it is refused as well.
    if low >= 0 and high <= 1:
        values = values * 255
    elif not (low >= 0 and high <= 255):
        raise UserError(
            f"{name}: floating-point values from {low:g} to {high:g}; 0..1 and 0..255 are read. "
            "Scale the image, or save it with 8 bits."
        )
    return np.rint(values).astype(np.uint8)


def from_array(array: np.ndarray, name: str) -> np.ndarray:
    """An array of any kind that `vit.images.decode.decode` takes -> uint8 [H, W, 3]. Raises UserError on others."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise UserError(f"{name}: an image array is [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], channels last.")
    if array.dtype == np.uint16:
        array = _from_16_bit(array)
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise UserError(f"{name}: floating-point arrays are read as 0..1, this one has {low:g}..{high:g}.")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise UserError(f"{name}: the element type must be uint8, uint16 or floating point in 0..1.")
    if array.shape[2] == 4:
        alpha = array[:, :, 3:].astype(np.uint16)
        over_white = array[:, :, :3] * alpha + np.uint16(255) * (255 - alpha)
        return ((over_white + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))
