"""Class folders: DIR/{train,val,test}/CLASS/** or DIR/CLASS/**."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from datasets.imageset import Data, FileSet
from datasets.names import NameTable
from datasets.split import NO_TEST, RULE, hold_out
from datasets.split_names import SPLIT_NAMES
from vit.errors import UserError, shown
from vit.image import IMAGE_SUFFIXES

# What operating systems and archivers leave behind.
LITTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")


@dataclass
class Findings:
    """What a scan saw and left out."""

    empty: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)
    loose: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        lines = []
        if self.empty:
            lines.append(f"Left out {len(self.empty)} files of 0 bytes: {shown(self.empty)}.")
        if self.broken:
            lines.append(f"Left out {len(self.broken)} links that lead nowhere: {shown(self.broken)}.")
        if self.other:
            kinds = [f"{suffix or 'no suffix'} ({count})" for suffix, count in self.other.most_common()]
            lines.append(f"Left out {self.other.total()} files that are not images, by suffix: {shown(kinds)}.")
        if self.loose:
            lines.append(f"Left out {len(self.loose)} images in no class folder: {shown(self.loose)}.")
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
    try:
        with os.scandir(folder) as entries:
            kept = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in LITTER]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}). Check the permissions.") from None
    return sorted(kept, key=lambda entry: entry.name)


def _read(root: str, findings: Findings) -> FileSet:
    """All images under root/CLASS/**; the classes are the folder names in sorted order."""
    folders: list[str] = []
    loose: list[str] = []
    for entry in _visible(root):
        if entry.is_dir():
            folders.append(entry.name)
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            loose.append(entry.path)
    if not folders:
        if loose:
            raise UserError(
                f"{root}: {len(loose)} images but no class folders ({shown(loose, 3)}). "
                f"Put the images of each class into a folder: {os.path.join(root, 'CLASS', 'image.jpg')}."
            )
        raise UserError(f"{root}: no images. Expected {os.path.join(root, 'CLASS', 'image.jpg')}.")
    findings.loose += loose
    tables: list[NameTable] = []
    for name in folders:
        # One class at a time, so that the strings of a million names never exist together.
        files: list[str] = []
        _collect(root, name, files, findings, {_identity(root)})
        tables.append(NameTable.of(sorted(files)))
    targets = np.repeat(np.arange(len(folders)), [len(table) for table in tables])
    if len(targets) == 0:
        raise UserError(
            f"{root}: no images in {len(folders)} folders ({shown(folders)}). Read are {', '.join(IMAGE_SUFFIXES)}."
        )
    return FileSet(folders, targets, root, NameTable.joined(tables))


def _collect(root: str, folder: str, files: list[str], findings: Findings, above: set[tuple[int, int]]) -> None:
    """Append the images below root/folder to `files`, relative to root, with "/" between the parts."""
    here = os.path.join(root, folder)
    identity = _identity(here)
    if identity in above:  # a link to a folder above itself
        return
    for entry in _visible(here):
        relative = f"{folder}/{entry.name}"
        if entry.is_dir():
            _collect(root, relative, files, findings, above | {identity})
        elif not entry.name.lower().endswith(IMAGE_SUFFIXES):
            findings.other[os.path.splitext(entry.name)[1].lower()] += 1
        elif not entry.is_file():
            findings.broken.append(entry.path)
        elif entry.stat().st_size == 0:
            findings.empty.append(entry.path)
        else:
            files.append(relative)


def _identity(folder: str) -> tuple[int, int]:
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
