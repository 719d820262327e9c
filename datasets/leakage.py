"""The same file in two splits: the score then rewards memory."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping

from datasets.imageset import FileSet, ImageSet
from vit.errors import shown

# Above this, comparing takes longer than a start-up check should.
FILES = 20_000


def shared_files(sets: Mapping[str, ImageSet]) -> list[str]:
    """Pairs "a.png (train) = b.png (val)" of files with equal bytes in different splits.

    Only files of equal size are read. Empty for sets of more than FILES files, and for sets in memory.
    """
    if sum(len(images) for images in sets.values()) > FILES:
        return []
    by_size: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for split, images in sets.items():
        if isinstance(images, FileSet):
            for i in range(len(images)):
                by_size[os.stat(images.name(i)).st_size].append((split, images.name(i)))
    pairs = []
    for alike in by_size.values():
        if len({split for split, _ in alike}) < 2:
            continue
        first: dict[bytes, tuple[str, str]] = {}
        for split, name in alike:
            with open(name, "rb") as file:
                digest = hashlib.file_digest(file, "blake2b").digest()
            other = first.setdefault(digest, (split, name))
            if other[0] != split:
                pairs.append(f"{other[1]} ({other[0]}) = {name} ({split})")
    return pairs


def leakage_notes(sets: Mapping[str, ImageSet]) -> list[str]:
    """One warning that names the files two splits share, or none."""
    pairs = shared_files(sets)
    return [f"Warning: {len(pairs)} files are in two splits: {shown(pairs)}."] if pairs else []
