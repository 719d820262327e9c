"""Small data sets on disk, for tests that start processes, and how tests of loaders and loops augment."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

AUGMENT = "glyph" if find_spec("albumentations") else "light"
"""The augmentation with most random streams that works here: rotating needs albumentations."""


def write_digits(root, count, name=str):
    """`count` real 8x8 digits of each class as root/CLASS/*.png; `name` gives the class folder of a digit."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for digit in range(10):
        folder = root / name(digit)
        folder.mkdir(parents=True, exist_ok=True)
        for i, pixels in enumerate(digits.images[digits.target == digit][:count]):
            Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(folder / f"scan {digit} {i}.png")
    return root


def write_squares(root: Path, counts: dict[str, int], rare: int = 6, objects: bool = True) -> Path:
    """COCO folders of gray images with green squares, every `rare`-th with a red one, every third with none."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        (root / split).mkdir(parents=True)
        annotations = []
        for i in range(count):
            pixels = rng.integers(90, 130, (40, 50, 3), dtype=np.uint8)
            for k in range(2 if objects and i % 3 else 0):
                side, x, y = (int(rng.integers(low, high)) for low, high in ((8, 16), (0, 34), (0, 24)))
                red = k == 1 and i % rare == 1
                pixels[y : y + side, x : x + side] = (220, 30, 30) if red else (30, 200, 30)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i,
                        "category_id": 7 if red else 2,
                        "bbox": [x, y, side, side],
                    }
                )
            Image.fromarray(pixels).save(root / split / f"{i}.png")
        content = {
            "images": [{"id": i, "file_name": f"{i}.png", "width": 50, "height": 40} for i in range(count)],
            "annotations": annotations,
            "categories": [{"id": 2, "name": "green"}, {"id": 7, "name": "red"}],
        }
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))
    return root
