"""Splitting a set in two by a rule that can be repeated from its record: the names and the seed decide."""

from __future__ import annotations

import hashlib

import numpy as np

from datasets.imageset import FileSet
from datasets.names import NameTable
from vit.errors import UserError

VAL_SHARE = 0.2
RULE = (
    "per class, the files in the order of BLAKE2b-64(name, key = seed); the first 20 %, rounded and at least "
    "one of two, are val"
)


def hold_out(whole: FileSet, seed: int) -> tuple[FileSet, FileSet, str]:
    """(train, val, a note that says so). UserError when no class has two images."""
    chosen = validation_rows(whole.names, whole.targets, seed)
    if not chosen.any():
        raise UserError(
            f"{whole.root}: no class has two images, so none can be held out for validation. "
            "Add images, or give val beside train."
        )
    train, val = whole.select(np.flatnonzero(~chosen)), whole.select(np.flatnonzero(chosen))
    return train, val, f"Split by a fixed rule with seed {seed}: {len(train)} train, {len(val)} val."


def validation_rows(names: NameTable, targets: np.ndarray, seed: int, share: float = VAL_SHARE) -> np.ndarray:
    """Which rows are for validation: bool [n], stratified by class.

    Each file's place depends on its own name and the seed alone, not on a random stream: adding files moves
    few others, and no version of a library can change it. targets: int64 [n] or multi-hot [n, K], where the
    rarest label of an image is its class.
    """
    key = seed.to_bytes(8, "little", signed=True)
    places = np.fromiter(
        (hashlib.blake2b(name, digest_size=8, key=key).digest() for name in names.encoded()),
        dtype="S8",
        count=len(names),
    )
    chosen = np.zeros(len(names), bool)
    strata = rarest_label(targets) if targets.ndim == 2 else targets
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        count = int(len(rows) * share + 0.5)
        count = min(max(count, 1), len(rows) - 1)
        chosen[rows[np.argsort(places[rows], kind="stable")[:count]]] = True
    return chosen


def rarest_label(targets: np.ndarray) -> np.ndarray:
    """multi-hot [n, K] -> int64 [n]: of each row's labels the least frequent one, -1 for none."""
    frequency = np.where(targets > 0, targets.sum(axis=0), np.inf)
    return np.where(targets.any(axis=1), frequency.argmin(axis=1), -1)
