"""Finds equal files: in two splits, where the score rewards memorization, or twice in one."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit.data.sets.imageset import FileSet, ImageSet
from vit.errors import shown

# Above this number, comparing files is too slow for a start-up check.
FILES = 20_000
ENDS = 4096
"""Bytes to read first at either end of a file, where files of equal size usually differ."""

Place = tuple[str, int]
"""Split and index."""


def same_files(sets: Mapping[str, ImageSet], most: int | None = FILES) -> list[list[Place]]:
    """Groups of images whose files have equal bytes; unreadable files are skipped.

    Only files of equal size are read, and only those with equal ends are read in full. Empty for sets of more than
    `most` files, and for images that are not separate files.
    """
    if most is not None and sum(len(images) for images in sets.values()) > most:
        return []
    by_size: dict[Any, list[Place]] = defaultdict(list)
    for split, images in sets.items():
        if isinstance(images, FileSet):
            for i in range(len(images)):
                try:
                    by_size[os.stat(images.name(i)).st_size].append((split, i))
                except OSError:
                    continue
    groups = [places for places in by_size.values() if len(places) > 1]
    for whole in (False, True):
        finer: dict[Any, list[Place]] = defaultdict(list)
        for k, places in enumerate(groups):
            for split, i in places:
                digest = _digest(sets[split].name(i), whole)
                if digest is not None:
                    finer[k, digest].append((split, i))
        groups = [places for places in finer.values() if len(places) > 1]
    return groups


def repeated_files(images: ImageSet) -> tuple[list[str], list[str]]:
    """Files that a manifest lists more than once: with the same targets, and with different ones."""
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
    """Warnings that name the files shared by two splits, and those that one split lists more than once."""
    pairs = []
    for places in same_files(sets):
        split, i = places[0]
        other = next((place for place in places if place[0] != split), None)
        if other is not None:
            pairs.append(f"{sets[split].name(i)} ({split}) = {sets[other[0]].name(other[1])} ({other[0]})")
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


def _digest(path: str, whole: bool) -> bytes | None:
    try:
        with open(path, "rb") as file:
            if whole:
                return hashlib.file_digest(file, "blake2b").digest()
            start = file.read(ENDS)
            file.seek(max(0, os.fstat(file.fileno()).st_size - ENDS))
            return hashlib.blake2b(start + file.read(ENDS), digest_size=16).digest()
    except OSError:
        return None
