"""`vitral data split SRC OUT`: divide a data set into train, val and test.

The rule depends only on names and the seed: adding images moves few others. Every class is split in the same
proportions; equal files, and the groups of --group, stay together.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from vit.commands.cli.fields import Positional
from vit.commands.cli.options import parse
from vit.data.check.leakage import same_files
from vit.data.open import as_found
from vit.data.sets.boxset import Boxed
from vit.data.sets.data import DetectionData
from vit.data.split import rarest_label, validation_rows
from vit.data.write.convert import Target, convert
from vit.data.write.output import Images
from vit.errors import UserError, shown

SAME = {"manifest": "folder", "folder": "folder", "jsonl": "csv", "shards": "parquet"}
"""Source format -> output format, for formats that differ."""


def main(arguments: Sequence[str]) -> int:
    return parse(Split, arguments, "vitral data split").run()


@dataclass(frozen=True)
class Split:
    """Divide a data set into train, val and test, in a new folder. SRC is only read."""

    source: Annotated[str, Positional("SRC")]
    """A data set, as `vitral train` takes it with --data, that is not divided yet."""
    out: Annotated[str, Positional("OUT")]
    """New folder."""
    val: float = 0.1
    """Fraction of the images that goes to validation."""
    test: float = 0.1
    """Fraction of the images that goes to test."""
    seed: int = 0
    """Seed of the division."""
    group: str | None = None
    """Regular expression: images in whose names it finds the same text stay together, such as '^.*_(?=\\d+)' for the
    frames of a video. If it has (groups), their text counts. Default: each image stands alone."""
    to: Target | None = None
    """Format of OUT. Default: that of SRC."""
    format: str | None = None
    """Format of SRC, where the folder could be read in more than one format. Default: recognized from the files."""
    images: Images = "copy"
    """How images get into OUT: copy; hardlink, which takes no space, but editing a file in place changes both; symlink,
    which needs SRC to stay."""

    def run(self) -> int:
        if not (0 <= self.val < 1 and 0 <= self.test < 1 and 0 < self.val + self.test < 1):
            raise UserError(f"--val {self.val} and --test {self.test} are shares of all images, together below 1.")
        data, found = as_found(self.source, self.format)
        if len(found) > 1:
            sizes = shown([f"{name} ({len(images)} images)" for name, images in found.items()])
            raise UserError(f"{self.source} is divided already: {sizes}. Give one part of it, or train on it as it is.")
        images = next(iter(found.values()))
        parts = divided(images, self.val, self.test, self.seed, self.group)
        splits = {name: images.select(rows) for name, rows in parts.items() if len(rows)}
        before = data.record.get("format") or "folder"
        notes = convert(data, splits, self.out, self.to or SAME.get(before, before), self.images)  # pyright: ignore
        for note in notes:
            print(note)
        for name, part in splits.items():
            print(f"{name}: {len(part):,} images -> {self.out}")
        missing = [k for name, part in splits.items() for k in _absent(images, part, name)]
        if missing:
            print(f"Warning: Too few images for every split to have the class: {shown(missing)}.")
        kind = "detect" if isinstance(data, DetectionData) else "folder"
        print(f"Train on it: vitral train {kind} --data {shlex.quote(self.out)}")
        return 0


def divided(images: Any, val: float, test: float, seed: int, group: str | None = None) -> dict[str, np.ndarray]:
    """Rows of train, val and test, each in order. Groups, and equal files, stay in one split.

    Raises UserError for an invalid regular expression, or one that finds fewer than two groups.
    """
    n = len(images)
    owners = _groups(images, group)
    names, first = _names_of(images, owners)
    strata = _strata(images)[first]
    chosen = {"test": np.zeros(len(names), bool), "val": np.zeros(len(names), bool)}
    rest = np.arange(len(names))
    for name, share in (("test", test), ("val", val / (1 - test))):
        if share:
            some = validation_rows([names[k] for k in rest.tolist()], strata[rest], seed, share)
            chosen[name][rest[some]] = True
            rest = rest[~some]
    if not any(part.any() for part in chosen.values()):
        raise UserError("No class has two images (or groups) to divide. Add images.")
    parts = {name: np.flatnonzero(part[owners]) for name, part in chosen.items()}
    taken = np.zeros(n, bool)
    for rows in parts.values():
        taken[rows] = True
    return {"train": np.flatnonzero(~taken), "val": parts["val"], "test": parts["test"]}


def _groups(images: Any, pattern: str | None) -> np.ndarray:
    """The number of each image's group: int64 [n]."""
    n = len(images)
    parent = np.arange(n)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for places in same_files({"all": images}, most=None):
        for _, i in places[1:]:
            parent[root(i)] = root(places[0][1])
    if pattern is not None:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise UserError(f"--group {pattern!r} is not a regular expression ({error}).") from None
        known: dict[object, int] = {}
        for i in range(n):
            match = expression.search(images.key(i).decode("utf-8", "replace"))
            if match is not None:
                parent[root(i)] = root(known.setdefault(match.groups() or match[0], i))
        if len(known) < 2:
            raise UserError(f"--group {pattern!r} finds {len(known)} groups; at least two are needed.")
    return np.unique([root(i) for i in range(n)], return_inverse=True)[1]


def _names_of(images: Any, owners: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """For each group, the name that decides its split, and its first image."""
    _, first = np.unique(owners, return_index=True)
    return [images.key(i) for i in first.tolist()], first


def _strata(images: Any) -> np.ndarray:
    """int64 [n]: the class by which each image is stratified."""
    if isinstance(images, Boxed):
        return images.rarest()
    return rarest_label(images.targets) if images.multilabel else images.targets


def _absent(whole: Any, part: Any, name: str) -> list[str]:
    lacking = np.flatnonzero((whole.counts() > 0) & (part.counts() == 0))
    return [f"{whole.classes[k]} in {name}" for k in lacking.tolist()]
