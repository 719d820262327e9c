"""The embedded default: 5,000 MNIST digits. ORIGIN.md beside the bytes says where they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vit.data.sets.imageset import ArraySet

_INSTALLED = Path(__file__).parent / "files" / "digits"
FILES = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[3] / "datasets" / "digits"
"""Where the bytes lie: in a wheel beside this file, in a clone among the data."""
SPLITS = ("train", "val", "test")


def load_digits() -> dict[str, ArraySet]:
    """3,500 / 500 / 1,000 images uint8 28 x 28, stratified; the split is stored and never changes."""
    with np.load(FILES / "digits.npz", allow_pickle=False) as stored:
        images, labels, split = stored["images"], stored["labels"].astype(np.int64), stored["split"]
    classes = [str(digit) for digit in range(10)]
    chosen = {name: np.flatnonzero(split == number) for number, name in enumerate(SPLITS)}
    return {name: ArraySet(classes, labels[rows], images[rows], f"digits/{name}") for name, rows in chosen.items()}
