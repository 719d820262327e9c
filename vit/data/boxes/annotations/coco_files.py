"""Find the annotation files of a COCO source and the folders that may hold their images."""

from __future__ import annotations

import os
import re

from vit.data.boxes.draft import ALL
from vit.data.split_names import SPLIT_NAMES
from vit.errors import UserError

BESIDE = "_annotations.coco.json"
SINGLE = (BESIDE, "annotations.json", "result.json", "labels.json")
"""File names of single-file exports (Roboflow, CVAT, Label Studio, FiftyOne)."""
OTHER = r"(captions|person_keypoints|image_info|panoptic|stuff)"
"""COCO's annotation files for tasks other than detection."""
EXPECTED = f"train/{BESIDE} or annotations/*train*.json"


def look(source: str) -> str:
    """The annotation files in a folder, for a message; "" if there are none."""
    return ", ".join(os.path.relpath(file, source) for file, _ in find(source).values())


def find(source: str) -> dict[str, tuple[str, list[str]]]:
    """Return {split: (annotation file, candidate image folders)}.

    Raises UserError if two files map to the same split.
    """
    if os.path.isfile(source):
        folder = os.path.dirname(os.path.abspath(source))
        return {ALL: (source, [folder, os.path.join(folder, "images"), os.path.dirname(folder)])}
    found: dict[str, tuple[str, list[str]]] = {}
    for name, split in SPLIT_NAMES.items():
        file = os.path.join(source, name, BESIDE)
        if os.path.isfile(file):
            if split in found:
                raise UserError(f"{source}: both {found[split][0]} and {file} would be {split}. Remove one.")
            found[split] = (file, [os.path.dirname(file)])
    if found:
        return found
    for name in SINGLE:
        file = os.path.join(source, name)
        if os.path.isfile(file):
            return {ALL: (file, [source, *(os.path.join(source, part) for part in ("images", "data"))])}
    folder = os.path.join(source, "annotations")
    if not os.path.isdir(folder):
        return {}
    names = [name for name in sorted(os.listdir(folder)) if name.endswith(".json") and not re.match(OTHER, name)]
    for name in names:
        match = re.search(r"(train|validation|valid|val|test)(\d*)", name.lower())
        if not match:
            continue
        split, file = SPLIT_NAMES[match[1]], os.path.join(folder, name)
        if split in found:
            raise UserError(f"{source}: both {found[split][0]} and {file} would be {split}. Remove one.")
        parts = [match[0], match[1]]
        roots = [os.path.join(source, *middle, part) for part in parts for middle in ((), ("images",))]
        found[split] = (file, [*roots, os.path.join(source, "images"), source])
    if not found and len(names) == 1:
        parts = (("images",), ("images", "default"), ())
        return {ALL: (os.path.join(folder, names[0]), [os.path.join(source, *part) for part in parts])}
    return found
