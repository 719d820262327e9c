"""The bundled default: 5,000 MNIST digits. ORIGIN.md next to the data gives their source."""

from __future__ import annotations

import numpy as np

from vit.data.bundled.place import FOLDER
from vit.data.sets.imageset import ArraySet

SPLITS = ("train", "val", "test")


def load_digits() -> dict[str, ArraySet]:
    """Load 3,500 / 500 / 1,000 images, uint8 28 x 28; the stratified split is stored and never changes."""
    with np.load(FOLDER / "digits" / "digits.npz", allow_pickle=False) as stored:
        images, labels, split = stored["images"], stored["labels"].astype(np.int64), stored["split"]
    classes = [str(digit) for digit in range(10)]
    chosen = {name: np.flatnonzero(split == number) for number, name in enumerate(SPLITS)}
    return {name: ArraySet(classes, labels[rows], images[rows], f"digits/{name}") for name, rows in chosen.items()}
