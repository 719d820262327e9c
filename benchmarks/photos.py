"""JPEG files that are as large and as hard to decode as photographs, made of noise at several scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

QUALITY = 90


def write_photos(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> None:
    """count files folder/CLASS/NUMBER.jpg of (H, W) pixels, in two classes."""
    rng = np.random.default_rng(seed)
    h, w = size
    for i in range(count):
        pixels = np.zeros((h, w, 3), np.float32)
        # Detail of photographs falls with the frequency; its last octave is the sensor's noise.
        for octave in range(1, 8):
            cells = (2**octave * 3, 2**octave * 4)
            low = Image.fromarray(rng.integers(0, 256, (*cells, 3), dtype=np.uint8))
            pixels += np.asarray(low.resize((w, h), Image.Resampling.BICUBIC), np.float32) / 2**octave
        pixels += rng.normal(0, 4, pixels.shape).astype(np.float32)
        inside = folder / "ab"[i % 2]
        inside.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(inside / f"{i:05d}.jpg", quality=QUALITY)
