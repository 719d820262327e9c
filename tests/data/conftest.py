"""Small data sets on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteImages = Callable[..., None]


@pytest.fixture
def write_images() -> WriteImages:
    """write_images(root, {"train/cat": 3, ...}): that many different small PNGs in each folder."""
    rng = np.random.default_rng(0)

    def write(root: Path, counts: dict[str, int], *, size: int = 8, suffix: str = ".png") -> None:
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{i}{suffix}")

    return write
