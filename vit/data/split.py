"""Splits a set in two by a reproducible rule: only the names and the seed decide."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, cast

import numpy as np

from vit.data.sets.data import Data
from vit.data.sets.imageset import ImageSet
from vit.errors import UserError, shown

VAL_SHARE = 0.2
RULE = (
    "per class (the rarest of those in an image), the files in the order of BLAKE2b-64(name, key = seed); the first "
    "20 %, rounded and at least one of two, are val"
)
ALL_TEST = "all images are test"
NO_TEST = "There is no test split: the report is made from val, which also chose the checkpoint."

Images = TypeVar("Images", bound=ImageSet)


def with_splits(
    sets: Mapping[str, ImageSet],
    source: str,
    *,
    seed: int | None,
    evaluation: bool,
    rule: str,
    notes: Sequence[str] = (),
    where: str | None = None,
) -> Data:
    """The Data of the splits that a reader found, all with the same class numbers.

    "all" names an undivided set. If there is no val, it is held out of train. evaluation, seed: as in `open_data`.
    where: names the source in messages.
    Raises UserError for no train, only one class, and labels of val or test that train lacks.
    """
    where, notes, sets = where or source, list(notes), dict(sets)
    if "all" in sets:
        sets = {"test" if evaluation else "train": sets["all"]}
        rule = ALL_TEST if evaluation else rule
    if "train" not in sets and not evaluation:
        raise UserError(f"{where}: has {shown(list(sets))} but no train. Add images to train on.")
    some = next(iter(sets.values()))
    if not some.numbers and len(some.classes) < (1 if some.multilabel else 2) and not evaluation:
        raise UserError(f"{where}: one class only ({shown(some.classes)}); two are the least.")
    if "train" in sets and "val" not in sets and seed is not None:
        rule = RULE
        train, val, note = hold_out(sets["train"], seed, where)
        sets = {"train": train, "val": val, **{name: images for name, images in sets.items() if name != "train"}}
        notes.append(note)
    if "train" in sets:
        notes += _compare_classes(where, sets)
    if "test" not in sets:
        notes.append(NO_TEST)
    return Data.of(sets, source, notes=notes, seed=seed, rule=rule)


def _compare_classes(where: str, sets: Mapping[str, ImageSet]) -> list[str]:
    """Notes on labels that only train has. Raises UserError for labels that train lacks."""
    notes = []
    trained = sets["train"].counts() > 0
    for name in ("val", "test"):
        if name not in sets:
            continue
        here = sets[name].counts() > 0
        unseen = [sets[name].classes[k] for k in np.flatnonzero(here & ~trained)]
        absent = [sets[name].classes[k] for k in np.flatnonzero(trained & ~here)]
        if unseen:
            raise UserError(f"{where}: train and {name} differ: labels only in {name}: {shown(unseen)}.")
        if absent:
            notes.append(f"Warning: {name} has no image of: {shown(absent)}.")
    return notes


def hold_out(whole: Images, seed: int, where: str, strata: np.ndarray | None = None) -> tuple[Images, Images, str]:
    """(train, val, a note about the split). strata: int64 [n], replaces the targets in stratification; if the targets
    are numbers (regression), all images are one stratum.

    Raises UserError, which names `where`, if no class has two images.
    """
    if strata is None:
        strata = np.zeros(len(whole), np.int64) if whole.numbers else whole.targets
    chosen = validation_rows(whole.keys(), strata, seed)
    if not chosen.any():
        raise UserError(
            f"{where}: no class has two images, so none can be held out for validation. "
            "Add images, or give val beside train."
        )
    train, val = (cast(Images, whole.select(np.flatnonzero(rows))) for rows in (~chosen, chosen))
    return train, val, f"Split by a fixed rule with seed {seed}: {len(train)} train, {len(val)} val."


def validation_rows(names: Iterable[bytes], targets: np.ndarray, seed: int, share: float = VAL_SHARE) -> np.ndarray:
    """Which rows are for validation: bool [n], stratified by class.

    The place of a file depends only on its name and the seed, not on a random stream: adding files moves few others,
    and no library version can change it. targets: int64 [n], or multi-hot [n, K], where the rarest label of an image
    is its class.
    """
    key, n = seed.to_bytes(8, "little", signed=True), len(targets)
    digests = (hashlib.blake2b(name, digest_size=8, key=key).digest() for name in names)
    places = np.fromiter(digests, dtype="S8", count=n)
    chosen = np.zeros(n, bool)
    strata = rarest_label(targets) if targets.ndim == 2 else targets
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        count = int(len(rows) * share + 0.5)
        count = min(max(count, 1), len(rows) - 1)
        chosen[rows[np.argsort(places[rows], kind="stable")[:count]]] = True
    return chosen


def rarest_label(targets: np.ndarray) -> np.ndarray:
    """multi-hot [n, K] -> int64 [n]: the least frequent label of each row, -1 for none."""
    frequency = np.where(targets > 0, targets.sum(axis=0), np.inf)
    return np.where(targets.any(axis=1), frequency.argmin(axis=1), -1)
