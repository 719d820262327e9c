"""The checks that decode nothing: classes, boxes, equal files. `vitral train` always runs them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit.data.check.boxes import check_boxes
from vit.data.check.findings import SHOWN, Findings
from vit.data.check.leakage import FILES, Place, same_files
from vit.data.sets.boxset import Boxed
from vit.data.sets.imageset import FileSet, ImageSet

BUNDLED = ("digits", "scenes")
FEW = 10
"""A class with fewer images (or boxes) than this is reported."""
IMBALANCE = 50
"""Maximum ratio of the largest class to the smallest."""
RARER = 0.2
"""A name that differs from another by one letter is a typo if its count is below this share of the other's."""


def quick_check(sets: Mapping[str, Any], findings: Findings, *, most: int | None = FILES) -> list[list[Place]]:
    """Add the findings to `findings`; returns the groups of equal files, which are not searched above `most` files.

    sets: ImageSets or BoxSets by split; images in memory have no files.
    """
    classes = next(iter(sets.values())).classes
    counts = {split: images.counts() for split, images in sets.items()}
    check_classes(classes, counts, findings)
    for split, images in sets.items():
        if isinstance(images, Boxed):
            check_boxes(images, split, findings)
        if isinstance(images, FileSet):
            _check_names(images, split, findings)
    groups = same_files(sets, most)
    report_twins(sets, groups, findings)
    return groups


def advice(data: Any) -> list[str]:
    """Lines that `vitral train` prints about its data beside `data.notes`. data: a Data or DetectionData."""
    if data.source in BUNDLED:
        return []
    findings = Findings()
    quick_check(data.splits(), findings)
    boxes = any(isinstance(images, Boxed) for images in data.splits().values())
    return findings.notes(leave_out=("leak",) if boxes else ("leak", "class-empty", "class-absent"))


def check_classes(classes: Sequence[str], counts: Mapping[str, np.ndarray], findings: Findings) -> None:
    """Check for nearly equal names, classes with few examples, and classes that only some splits have."""
    total = np.sum([*counts.values()], axis=0)
    typos = [
        f"{classes[a]} ({total[a]:,}) and {classes[b]} ({total[b]:,})"
        for a, b in near_names(classes)
        if _same_but_for_form(classes[a], classes[b]) or min(total[a], total[b]) < RARER * max(total[a], total[b])
    ]
    findings.add("class-typo", "all splits", typos, len(typos), of=len(classes))
    main = "train" if "train" in counts else next(iter(counts))
    n = counts[main]
    empty = np.flatnonzero(n == 0)
    findings.add("class-empty", main, _named(classes, empty), len(empty), of=len(classes))
    few = np.flatnonzero((n > 0) & (n < FEW))
    findings.add("class-few", main, [f"{classes[k]} ({n[k]})" for k in few[:SHOWN]], len(few), of=len(classes))
    if n.any() and n.max() > IMBALANCE * n[n > 0].min():
        large, small = int(n.argmax()), int(np.where(n > 0, n, n.max() + 1).argmin())
        findings.add("class-imbalance", main, f"{classes[large]} {n[large]:,}, {classes[small]} {n[small]:,}")
    for split in counts:
        if split != main:
            absent = np.flatnonzero((n > 0) & (counts[split] == 0))
            findings.add("class-absent", split, _named(classes, absent), len(absent), of=len(classes))
            unseen = np.flatnonzero((n == 0) & (counts[split] > 0))
            findings.add("class-unseen", split, _named(classes, unseen), len(unseen), of=len(classes))


def _named(classes: Sequence[str], some: np.ndarray) -> list[str]:
    return [classes[int(k)] for k in some[:SHOWN]]


def near_names(names: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of names that differ only in case, separators or a plural s, or, if long enough, in one letter."""
    keys: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        plain = _plain(name)
        for key in {plain, plain.removesuffix("s"), plain.removesuffix("es"), *_without_one_letter(plain)}:
            keys.setdefault(key, []).append(k)
    pairs = {(a, b) for same in keys.values() for i, a in enumerate(same) for b in same[i + 1 :]}
    return sorted((a, b) for a, b in pairs if _near(_plain(names[a]), _plain(names[b])))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _without_one_letter(name: str) -> list[str]:
    """Keys that two names share if they differ in one letter. Digits distinguish classes, so they are kept."""
    if len(name) < 5:
        return []
    return [f"{name[:k]}*{name[k + 1 :]}" for k in range(len(name)) if not name[k].isdigit()] + [
        name[:k] + name[k + 1 :] for k in range(len(name)) if not name[k].isdigit()
    ]


def _near(a: str, b: str) -> bool:
    if _same_but_for_form(a, b):
        return True
    if min(len(a), len(b)) < 5 or abs(len(a) - len(b)) > 1:
        return False
    first = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if len(a) == len(b):
        swapped = a[first + 1 : first + 2] == b[first] and b[first + 1 : first + 2] == a[first]
        rest = first + 2 if swapped else first + 1
        return a[rest:] == b[rest:] and not (a[first].isdigit() or b[first].isdigit())
    short, long = sorted((a, b), key=len)
    return short[first:] == long[first + 1 :] and not long[first].isdigit()


def _same_but_for_form(a: str, b: str) -> bool:
    short, long = sorted((_plain(a), _plain(b)), key=len)
    return bool(short) and long in (short, short + "s", short + "es")


def _check_names(images: FileSet, split: str, findings: Findings) -> None:
    """Check for names that other systems cannot distinguish or store."""
    folded: dict[bytes, bytes] = {}
    clash: list[str] = []
    odd: list[str] = []
    for key in images.keys():  # noqa: SIM118
        lower = key.lower()
        other = folded.setdefault(lower, key)
        if other != key:
            clash.append(f"{os.fsdecode(other)} and {os.fsdecode(key)}")
        try:
            broken = any(byte < 32 for byte in key) or not key.decode("utf-8")
        except UnicodeDecodeError:
            broken = True
        if broken:
            odd.append(repr(os.fsdecode(key)))
    findings.add("name-case", split, clash, len(clash), of=len(images))
    findings.add("name-odd", split, odd, len(odd), of=len(images))


def report_twins(sets: Mapping[str, Any], groups: list[list[Place]], findings: Findings) -> None:
    """Add equal files: within a split, in two splits, and with different labels."""
    n = sum(len(images) for images in sets.values())
    for places in groups:
        names = [f"{sets[split].name(i)} ({split})" for split, i in places]
        inside = len(places) - len({split for split, _ in places})
        findings.add("duplicate", "all splits", " = ".join(names[:3]), inside, of=n)
        others = [k for k, (split, _) in enumerate(places) if split != places[0][0]]
        if others:
            findings.add("leak", "all splits", f"{names[0]} = {names[others[0]]}", of=n)
        if len({_truth(sets[split], i) for split, i in places}) > 1:
            findings.add("duplicate-conflict", "all splits", " = ".join(names[:3]), of=n)


def _truth(images: ImageSet, i: int) -> object:
    """The label or boxes of an image, for comparison."""
    if isinstance(images, Boxed):
        truth = images.annotation(i)
        order = np.lexsort(truth.boxes.T)
        return truth.boxes[order].tobytes() + truth.labels[order].tobytes()
    return np.asarray(images.targets[i]).tobytes()
