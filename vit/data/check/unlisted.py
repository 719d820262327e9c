"""Images beside those of a detection set that no split lists: forgotten, or never annotated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from vit.data.check.findings import Findings
from vit.data.sets.boxset import BoxFiles
from vit.images.preprocess import IMAGE_SUFFIXES


def unlisted_images(sets: Mapping[str, Any], findings: Findings) -> None:
    """Add to `findings` the unlisted images in folders that contain listed ones."""
    files = {split: images for split, images in sets.items() if isinstance(images, BoxFiles)}
    listed = {os.path.normpath(images.name(i)) for images in files.values() for i in range(len(images))}
    folders = {os.path.dirname(path) for path in listed}
    for folder in sorted(folders):
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        paths = [os.path.join(folder, name) for name in names if _is_image(name)]
        # The reader reports files of 0 bytes.
        alone = [path for path in paths if path not in listed and os.path.getsize(path)]
        findings.add("image-unlisted", folder, alone, len(alone), of=len(paths))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
