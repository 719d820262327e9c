"""Writes labeled images as class folders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from vit.data.sets.imageset import ImageSet
from vit.data.write.output import FileNames, Images, put_image
from vit.errors import UserError, shown


def write_folder(splits: Mapping[str, ImageSet], out: str, images: Images) -> list[str]:
    """OUT/SPLIT/CLASS/image. Returns notes for the user.

    Raises UserError for several labels per image, and for class names that no folder can have.
    """
    some = next(iter(splits.values()))
    if some.multilabel:
        raise UserError("Class folders hold one label an image; these images have several. Convert to parquet.")
    bad = [name for name in some.classes if not name or name[0] in ". " or re.search(r"[\x00-\x1f/\\]", name)]
    if bad:
        raise UserError(f"These classes cannot be names of folders: {shown(bad)}. Convert to parquet.")
    for split, part in splits.items():
        for name in part.classes:
            os.makedirs(os.path.join(out, split, name))
        names = FileNames(part)
        for i in range(len(part)):
            # In a source with class folders, the name already begins with the class.
            name, label = names.of(i), part.classes[part.targets[i]]
            put_image(part, i, os.path.join(out, split, label, name.removeprefix(f"{label}/")), images)
    order = sorted(some.classes)
    return [] if list(some.classes) == order else ["The classes are in alphabetical order now, as their folders are."]
