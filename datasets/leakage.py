"""The same file in two splits, where the score then rewards memory, or twice in one."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

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


def repeated_files(images: ImageSet) -> tuple[list[str], list[str]]:
    """Files that a manifest lists more than once: with the same targets each time, and with others."""
    if not isinstance(images, FileSet):
        return [], []
    codes = np.fromiter(map(hash, images.names.encoded()), np.int64, len(images))
    order = np.argsort(codes, kind="stable")
    rows: dict[str, list[int]] = defaultdict(list)
    again = np.flatnonzero(codes[order][1:] == codes[order][:-1])
    for i in np.unique(np.concatenate([order[again], order[again + 1]])).tolist():
        rows[images.names[i]].append(i)
    told = {name: {images.targets[i].tobytes() for i in at} for name, at in rows.items() if len(at) > 1}
    same = [name for name, targets in told.items() if len(targets) == 1]
    return same, [name for name in told if name not in same]


def leakage_notes(sets: Mapping[str, ImageSet]) -> list[str]:
    """A warning that names the files two splits share, and those that one lists more than once."""
    pairs = shared_files(sets)
    notes = [f"Warning: {len(pairs)} files are in two splits: {shown(pairs)}."] if pairs else []
    for split, images in sets.items():
        same, other = repeated_files(images)
        if same:
            notes.append(f"Warning: {split} lists {len(same)} files more than once: {shown(same)}.")
        if other:
            notes.append(
                f"Warning: {split} lists {len(other)} files more than once, with different labels: {shown(other)}."
            )
    return notes
