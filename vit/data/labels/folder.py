"""Read class folders: DIR/{train,val,test}/CLASS/** or DIR/CLASS/**."""

from __future__ import annotations

import os
from bisect import insort
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import AnyStr

import numpy as np

from vit.data.check.findings import Findings
from vit.data.sets.data import Data
from vit.data.sets.imageset import FileSet
from vit.data.sets.names import NameTable
from vit.data.split import ALL_TEST, NO_TEST, RULE, hold_out
from vit.data.split_names import SPLIT_NAMES
from vit.errors import UserError, nearest, shown
from vit.images.preprocess import IMAGE_SUFFIXES

# Files left behind by operating systems and archivers.
LITTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")
_LITTER = frozenset(map(os.fsencode, LITTER))
_SUFFIXES = tuple(map(os.fsencode, IMAGE_SUFFIXES))


@dataclass
class Few:
    """A count and the first 10 names; a list of a million would take more memory than the index."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        insort(self.names, name)
        del self.names[10:]

    def join(self, other: Few) -> None:
        self.count += other.count
        self.names = sorted(self.names + other.names)[:10]

    def told(self, limit: int) -> str:
        names = self.names[:limit]
        more = self.count - len(names)
        return shown(names) + (f" and {more} more" if more else "")

    def __str__(self) -> str:
        return self.told(10)


# Image formats that are not supported; they are reported apart from other files.
UNREAD = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".eps", ".ico", ".tga", ".exr", ".hdr", ".dcm"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)


@dataclass
class LeftOut:
    """What a scan left out."""

    empty: Few = field(default_factory=Few)
    broken: Few = field(default_factory=Few)
    other: Counter[str] = field(default_factory=Counter)
    """Counts by suffix."""
    loose: Few = field(default_factory=Few)

    def report(self, root: str, findings: Findings) -> None:
        for id, few in (("file-empty", self.empty), ("link-broken", self.broken), ("image-loose", self.loose)):
            findings.add(id, root, few.names, few.count)
        for id, images in (("file-unread", True), ("file-other", False)):
            kinds = [(suffix, count) for suffix, count in self.other.most_common() if (suffix in UNREAD) == images]
            names = [f"{suffix or 'no suffix'} ({count})" for suffix, count in kinds]
            findings.add(id, root, names, sum(count for _, count in kinds))


def open_folder(root: str, *, seed: int | None = 0, evaluation: bool = False, findings: Findings | None = None) -> Data:
    """Read class folders; `evaluation` and `seed` as in `open_data`.

    findings: collects what is wrong; without it, the first error is raised.

    Raises UserError for no images, images outside class folders, and class folders that differ between splits.
    """
    parts = _split_folders(root, evaluation)
    left, report = LeftOut(), Findings() if findings is None else findings
    if parts:
        sets = {name: _read(os.path.join(root, folder), left) for name, folder in parts.items()}
    else:
        sets = {"test" if evaluation else "train": _read(root, left)}
    left.report(root, report)
    if parts:
        known = {*parts.values()}
        extra = [entry.name for entry in _visible(root) if entry.is_dir() and entry.name not in known]
        report.add("folder-beside", root, [f"{name}/" for name in extra], len(extra))
    rule = "as found in the folders " + ", ".join(parts.values()) if parts else ALL_TEST
    _compare_classes(sets, {name: os.path.join(root, folder) for name, folder in parts.items()}, report)
    notes: list[str] = []
    if findings is None:
        report.raise_errors()
        notes = report.notes()
    if "train" in sets and "val" not in sets and seed is not None:
        rule = f"{sets['train'].root}: {RULE}"
        sets["train"], sets["val"], note = hold_out(sets["train"], seed, sets["train"].root)
        notes.append(note)
    if "test" not in sets:
        notes.append(NO_TEST)
    notes += _empty_classes(sets)
    return Data.of(sets, root, notes=notes, seed=seed, rule=rule)


def _split_folders(root: str, evaluation: bool) -> dict[str, str]:
    """Return {"train": "train", "val": "validation", ...} as found; {} for the flat layout."""
    parts: dict[str, str] = {}
    for entry in _visible(root):
        name = SPLIT_NAMES.get(entry.name.lower())
        if name is not None and entry.is_dir():
            if name in parts:
                raise UserError(f"{root}: both {parts[name]}/ and {entry.name}/ would be {name}. Remove one.")
            parts[name] = entry.name
    if parts and "train" not in parts and not evaluation:
        raise UserError(f"{root}: has {shown([f'{p}/' for p in parts.values()])} but no train/. Add train/CLASS/*.")
    return {name: parts[name] for name in ("train", "val", "test") if name in parts}


def _visible(folder: str) -> list[os.DirEntry[str]]:
    """A folder's entries sorted by name, without hidden ones and litter."""
    return sorted(_entries(folder), key=lambda entry: entry.name)


def _entries(folder: AnyStr) -> Iterator[os.DirEntry[AnyStr]]:
    """Yield the same entries in any order."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if not name.startswith(b".") and name not in _LITTER:
                    yield entry
    except OSError as error:
        told = f"{os.fsdecode(folder)}: cannot be listed ({error.strerror}). Check the permissions."
        raise UserError(told) from None


def _read(root: str, left: LeftOut) -> FileSet:
    """Read all images under root/CLASS/**; the classes are the sorted folder names."""
    folders: list[str] = []
    loose = Few()
    for entry in _visible(root):
        if entry.is_dir():
            folders.append(entry.name)
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            loose.add(entry.path)
    if not folders:
        if loose.count:
            raise UserError(
                f"{root}: {loose.count} images but no class folders ({loose.told(3)}). "
                f"Put the images of each class into a folder: {os.path.join(root, 'CLASS', 'image.jpg')}."
            )
        raise UserError(f"{root}: no images. Expected {os.path.join(root, 'CLASS', 'image.jpg')}.")
    left.loose.join(loose)
    tables: list[NameTable] = []
    for name in folders:
        # One class at a time, as bytes: a million names as str would take more memory than the index.
        files: list[bytes] = []
        _collect(os.fsencode(root), os.fsencode(name), files, left, {_identity(root)})
        files.sort()
        tables.append(NameTable.of_encoded(files))
    targets = np.repeat(np.arange(len(folders)), [len(table) for table in tables])
    if len(targets) == 0:
        raise UserError(
            f"{root}: no images in {len(folders)} folders ({shown(folders)}). Read are {', '.join(IMAGE_SUFFIXES)}."
        )
    return FileSet(folders, targets, root, NameTable.joined(tables))


def _collect(root: bytes, folder: bytes, files: list[bytes], left: LeftOut, above: set[tuple[int, int]]) -> None:
    """Append the images below root/folder to `files`, relative to root, with "/" separators, in any order."""
    here = os.path.join(root, folder)
    identity = _identity(here)
    if identity in above:  # a link to one of its parents
        return
    for entry in _entries(here):
        if entry.is_dir():
            _collect(root, b"%s/%s" % (folder, entry.name), files, left, above | {identity})
        elif not entry.name.lower().endswith(_SUFFIXES):
            left.other[os.fsdecode(os.path.splitext(entry.name)[1]).lower()] += 1
        elif not entry.is_file():
            left.broken.add(os.fsdecode(entry.path))
        elif entry.stat().st_size == 0:
            left.empty.add(os.fsdecode(entry.path))
        else:
            files.append(b"%s/%s" % (folder, entry.name))


def _identity(folder: str | bytes) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _compare_classes(sets: dict[str, FileSet], folders: dict[str, str], findings: Findings) -> None:
    """Report val classes that differ from train, test classes not in train, and a single class; relabel all sets to the
    union of the classes."""
    train = sets["train"].classes if "train" in sets else ()
    for name in ("val", "test") if train else ():
        if name not in sets:
            continue
        here = sets[name].classes
        # A test set may lack a class: metrics cover the classes that it has.
        missing = [] if name == "test" else [k for k in train if k not in here]
        added = [k for k in here if k not in train]
        lines = [f"{k} only in {folders['train']}" for k in missing]
        lines += [f"{k} only in {folders[name]}{nearest(k, train)}" for k in added]
        findings.add("classes-differ", folders[name], lines, len(lines))
    if len(train) == 1:
        findings.add("class-alone", sets["train"].root, os.path.join(sets["train"].root, train[0]))
    everything = sorted({name for images in sets.values() for name in images.classes})
    for images in sets.values():
        images.relabel(everything)


def _empty_classes(sets: dict[str, FileSet]) -> list[str]:
    """A warning with a table of counts if a class folder of any split holds no images."""
    counts = {name: images.counts() for name, images in sets.items()}
    classes = next(iter(sets.values())).classes
    empty = [(k, name) for name, count in counts.items() for k in np.flatnonzero(count == 0).tolist()]
    if not empty:
        return []
    rows = sorted({k for k, _ in empty}) + [k for k in range(len(classes)) if k not in {j for j, _ in empty}]
    width = max(5, *(len(classes[k]) for k in rows[:20]))
    table = ["  ".join([f"{'class':{width}}", *(f"{name:>7}" for name in counts)])]
    table += ["  ".join([f"{classes[k]:{width}}", *(f"{count[k]:>7}" for count in counts.values())]) for k in rows[:20]]
    if len(rows) > 20:
        table.append(f"... and {len(rows) - 20} more classes")
    listed = shown([f"{classes[k]} ({name})" for k, name in empty])
    return ["\n".join([f"Warning: classes without images: {listed}.", *table])]
