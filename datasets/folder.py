"""Class folders: DIR/{train,val,test}/CLASS/** or DIR/CLASS/**."""

from __future__ import annotations

import os
from bisect import insort
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import AnyStr

import numpy as np

from datasets.imageset import Data, FileSet
from datasets.names import NameTable
from datasets.split import NO_TEST, RULE, hold_out
from datasets.split_names import SPLIT_NAMES
from vit.errors import UserError, shown
from vit.image import IMAGE_SUFFIXES

# What operating systems and archivers leave behind.
LITTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")
_LITTER = frozenset(map(os.fsencode, LITTER))
_SUFFIXES = tuple(map(os.fsencode, IMAGE_SUFFIXES))


@dataclass
class Few:
    """How many there are, and the first of them by name: a list of a million would take more than the index."""

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


@dataclass
class Findings:
    """What a scan saw and left out."""

    empty: Few = field(default_factory=Few)
    broken: Few = field(default_factory=Few)
    other: Counter[str] = field(default_factory=Counter)
    loose: Few = field(default_factory=Few)

    def notes(self) -> list[str]:
        lines = []
        if self.empty.count:
            lines.append(f"Left out {self.empty.count} files of 0 bytes: {self.empty}.")
        if self.broken.count:
            lines.append(f"Left out {self.broken.count} links that lead nowhere: {self.broken}.")
        if self.other:
            kinds = [f"{suffix or 'no suffix'} ({count})" for suffix, count in self.other.most_common()]
            lines.append(f"Left out {self.other.total()} files that are not images, by suffix: {shown(kinds)}.")
        if self.loose.count:
            lines.append(f"Left out {self.loose.count} images in no class folder: {self.loose}.")
        return lines


def open_folder(root: str, *, seed: int = 0, evaluation: bool = False) -> Data:
    """Read class folders; `evaluation` as in `open_data`.

    Raises UserError: no images, images without class folders, class folders that differ between splits.
    """
    parts = _split_folders(root, evaluation)
    findings = Findings()
    if parts:
        sets = {name: _read(os.path.join(root, folder), findings) for name, folder in parts.items()}
    else:
        sets = {"test" if evaluation else "train": _read(root, findings)}
    notes = findings.notes()
    if parts:
        known = {*parts.values()}
        extra = [entry.name for entry in _visible(root) if entry.is_dir() and entry.name not in known]
        if extra:
            notes.append(f"Left out folders beside {shown(sorted(known))} in {root}: {shown(extra)}.")
    rule = "as found in the folders " + ", ".join(parts.values()) if parts else "all images are test"
    _require_same_classes(sets, {name: os.path.join(root, folder) for name, folder in parts.items()})
    if "train" in sets and "val" not in sets:
        rule = f"{sets['train'].root}: {RULE}"
        sets["train"], sets["val"], note = hold_out(sets["train"], seed, sets["train"].root)
        notes.append(note)
    classes = next(iter(sets.values())).classes
    if "test" not in sets:
        notes.append(NO_TEST)
    elif "train" in sets:
        sets["test"].relabel(classes)
    notes += _empty_classes(sets)
    return Data.of(sets, root, notes=notes, seed=seed, rule=rule)


def _split_folders(root: str, evaluation: bool) -> dict[str, str]:
    """{"train": "train", "val": "validation", ...} as found, {} for the flat layout."""
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
    """The entries of a folder by name, without hidden ones and litter."""
    return sorted(_entries(folder), key=lambda entry: entry.name)


def _entries(folder: AnyStr) -> Iterator[os.DirEntry[AnyStr]]:
    """The same in any order, one after the other."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if not name.startswith(b".") and name not in _LITTER:
                    yield entry
    except OSError as error:
        told = f"{os.fsdecode(folder)}: cannot be listed ({error.strerror}). Check the permissions."
        raise UserError(told) from None


def _read(root: str, findings: Findings) -> FileSet:
    """All images under root/CLASS/**; the classes are the folder names in sorted order."""
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
    findings.loose.join(loose)
    tables: list[NameTable] = []
    for name in folders:
        # One class at a time, and bytes: the strings of a million names would take more than the index.
        files: list[bytes] = []
        _collect(os.fsencode(root), os.fsencode(name), files, findings, {_identity(root)})
        files.sort()
        tables.append(NameTable.of_encoded(files))
    targets = np.repeat(np.arange(len(folders)), [len(table) for table in tables])
    if len(targets) == 0:
        raise UserError(
            f"{root}: no images in {len(folders)} folders ({shown(folders)}). Read are {', '.join(IMAGE_SUFFIXES)}."
        )
    return FileSet(folders, targets, root, NameTable.joined(tables))


def _collect(root: bytes, folder: bytes, files: list[bytes], findings: Findings, above: set[tuple[int, int]]) -> None:
    """Append the images below root/folder to `files`, relative to root, with "/" between the parts, in any order."""
    here = os.path.join(root, folder)
    identity = _identity(here)
    if identity in above:  # a link to a folder above itself
        return
    for entry in _entries(here):
        if entry.is_dir():
            _collect(root, b"%s/%s" % (folder, entry.name), files, findings, above | {identity})
        elif not entry.name.lower().endswith(_SUFFIXES):
            findings.other[os.fsdecode(os.path.splitext(entry.name)[1]).lower()] += 1
        elif not entry.is_file():
            findings.broken.add(os.fsdecode(entry.path))
        elif entry.stat().st_size == 0:
            findings.empty.add(os.fsdecode(entry.path))
        else:
            files.append(b"%s/%s" % (folder, entry.name))


def _identity(folder: str | bytes) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _require_same_classes(sets: dict[str, FileSet], folders: dict[str, str]) -> None:
    """Raise when val's class folders are not train's, when test has others, or when there is only one."""
    if "train" not in sets:
        return
    train = set(sets["train"].classes)
    for name in ("val", "test"):
        if name not in sets:
            continue
        here = set(sets[name].classes)
        missing, added = sorted(train - here), sorted(here - train)
        # A test set may lack a class: it is reported on what it has.
        if added or (missing and name == "val"):
            lines = [f"only in {folders['train']}: {shown(missing)}"] * bool(missing)
            lines += [f"only in {folders[name]}: {shown(added)}"] * bool(added)
            raise UserError(f"The class folders of train and {name} differ: {'; '.join(lines)}.")
    if len(train) == 1:
        only = os.path.join(sets["train"].root, sets["train"].classes[0])
        raise UserError(
            f"{sets['train'].root}: one class folder only ({sets['train'].classes[0]}); two are the least. "
            f"If the class folders lie inside it, give {only} as the data."
        )


def _empty_classes(sets: dict[str, FileSet]) -> list[str]:
    """A warning and the table of counts, when a class folder of any split holds no image."""
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
