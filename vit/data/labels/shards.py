"""Read tar shards in WebDataset's naming with random access: 000123.jpg and 000123.cls, or .json.

    DIR/*.tar, DIR/{train,val}/*.tar, DIR/train-{000000..000012}.tar

Images are read by their offset in the shard, so epoch order, resuming and the number of ranks work as with single
files. A .cls holds a number or a name; DIR/dataset.json (as `vitral data pack` writes it) or DIR/classes.txt (one name
per line) names the numbers.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit.data.labels.manifest import in_order, stated_classes
from vit.data.sets.data import Data
from vit.data.sets.names import NameTable
from vit.data.sets.rows import RowSet, stamp_of
from vit.data.split import with_splits
from vit.data.split_names import by_split
from vit.data.store.shard_index import BOXES, LABEL, LABELS, NONE, ShardIndex, indexes
from vit.errors import UserError, shown

FACTS = "dataset.json"
OPEN_FILES = 64
"""Shards that a process keeps open; systems limit open files."""


class ShardStore:
    """The images of some shards. files: relative to root, one per element of `parts`."""

    def __init__(self, root: str, files: Sequence[str], parts: Sequence[ShardIndex]) -> None:
        self.root, self.files = root, tuple(files)
        lengths = [len(part.ends) for part in parts]
        self.names = NameTable.joined([NameTable(part.blob, part.ends) for part in parts])
        self._shard = np.repeat(np.arange(len(parts), dtype=np.int32), lengths)
        self._offset = np.concatenate([part.offset for part in parts])
        self._size = np.concatenate([part.size for part in parts])
        self._opened = _Descriptors()

    def __len__(self) -> int:
        return len(self._shard)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": _Descriptors()}

    def name(self, row: int) -> str:
        return f"{self._path(row)}, {self.names[row]}"

    def key(self, row: int) -> bytes:
        return os.fsencode(f"{self.files[self._shard[row]]}:{self.names[row]}")

    def file(self, row: int) -> tuple[str, bytes]:
        return os.path.splitext(self.names[row])[1].lower(), self.bytes_at(
            row, int(self._offset[row]), int(self._size[row])
        )

    def bytes_at(self, row: int, offset: int, size: int) -> bytes:
        """Read bytes from the shard that contains a row."""
        path = self._path(row)
        try:
            content = os.pread(self._opened.of(path), size, offset)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
        if len(content) != size:
            raise UserError(f"{path}: is shorter than it was. Was it written anew? Start again.")
        return content

    def stamp(self) -> str:
        return stamp_of(self.root, self.files)

    def _path(self, row: int) -> str:
        return os.path.join(self.root, self.files[self._shard[row]])


class _Descriptors:
    """Open files. os.pread moves no file position, so processes can share them."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, path: str) -> int:
        if path not in self._known:
            if len(self._known) >= OPEN_FILES:
                os.close(self._known.pop(next(iter(self._known))))
            self._known[path] = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        return self._known[path]

    def __del__(self) -> None:
        for descriptor in self._known.values():
            os.close(descriptor)


def open_shards(source: str, *, seed: int | None = 0, evaluation: bool = False) -> Data:
    """Read a folder of shards, one shard, or a pattern; `evaluation` as in `open_data`.

    Raises UserError for samples with boxes, a source without labels, labels out of range, and where `indexes` does.
    """
    root, files = find_shards(source)
    found = load_indexes(root, [file for part in files.values() for file in part])
    if any((index.kind == BOXES).any() for index in found.values()):
        raise UserError(f"{source}: its samples have boxes: vitral train detect reads them.")
    notes = left_out(root, found)
    multilabel = _one_kind(source, found)
    classes = classes_of(root)
    stated = classes is not None
    if classes is None:
        words = {word for index in found.values() for word in index.words}
        classes = in_order(sorted(map(str, words)))
    sets: dict[str, RowSet] = {}
    for split, part in files.items():
        store = ShardStore(root, part, [found[file] for file in part])
        targets, known = _targets(store, [found[file] for file in part], classes, stated, multilabel)
        if not known.all():
            notes.append(f"Left out {int((~known).sum())} images of {split} that have no label.")
        if known.any():
            sets[split] = RowSet(classes, targets[known], store, np.flatnonzero(known))
    rule = "as found in " + ", ".join(part[0] for part in files.values())
    return with_splits(sets, source, seed=seed, evaluation=evaluation, rule=rule, notes=notes)


def find_shards(source: str) -> tuple[str, dict[str, list[str]]]:
    """Return the folder and {split: its shards}, relative to it. source: a folder, a shard, or a pattern with
    {000..012}, {a,b}, * or ?. Raises UserError if a shard that braces name is missing."""
    if os.path.isdir(source):
        root = source
        files = [
            os.path.relpath(os.path.join(folder, name), root)
            for folder, _, names in os.walk(root)
            for name in names
            if name.endswith(".tar") and not name.startswith(".")
        ]
    else:
        paths = [path for part in braces(source) for path in _matching(part)]
        missing = [path for path in paths if not os.path.isfile(path)]
        if missing:
            raise UserError(f"{source}: {len(missing)} of {len(paths)} shards do not exist: {shown(missing)}.")
        root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]) if paths else "."
        files = [os.path.relpath(os.path.abspath(path), root) for path in paths]
    if not files:
        raise UserError(f"{source}: no .tar files.")
    return root, by_split(dict.fromkeys(files), source)


def braces(pattern: str) -> list[str]:
    """Expand {000..012} and {a,b} as shells do: "s-{08..10}.tar" -> s-08.tar, s-09.tar, s-10.tar."""
    choices: list[list[str]] = []
    for part in re.split(r"(\{[^{}]*\})", pattern):
        span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
        if span is not None:
            first, last = int(span[1]), int(span[2])
            if last < first or last - first >= 10**6:
                raise UserError(f"{pattern}: {part} is no range of shards.")
            width = len(span[1]) if span[1].startswith("0") else 0
            choices.append([f"{k:0{width}d}" for k in range(first, last + 1)])
        elif part.startswith("{") and "," in part:
            choices.append(part[1:-1].split(","))
        else:
            choices.append([part])
    return ["".join(parts) for parts in itertools.product(*choices)]


def _matching(path: str) -> list[str]:
    return sorted(glob.glob(path)) if any(sign in path for sign in "*?[") and not os.path.exists(path) else [path]


def load_indexes(root: str, files: Sequence[str]) -> dict[str, ShardIndex]:
    """The index of each shard; indexes are stored per folder."""
    folders: dict[str, list[str]] = {}
    for file in files:
        folders.setdefault(os.path.dirname(file), []).append(os.path.basename(file))
    found: dict[str, ShardIndex] = {}
    for folder, names in folders.items():
        inside = indexes(os.path.join(root, folder) if folder else root, names)
        found |= {os.path.join(folder, name) if folder else name: index for name, index in inside.items()}
    return found


def left_out(root: str, found: Mapping[str, ShardIndex]) -> list[str]:
    """Notes about files in the shards that are not samples."""
    empty = [f"{os.path.join(root, file)}, {name}" for file, index in found.items() for name in index.empty]
    without = sum(index.without_image for index in found.values())
    lines = [f"Left out {len(empty)} files of 0 bytes: {shown(empty)}."] if empty else []
    return [*lines, f"Left out {without} samples without an image."] if without else lines


def facts_of(root: str) -> dict[str, Any]:
    """Read dataset.json next to the shards; {} if there is none. Raises UserError if it is invalid."""
    path = os.path.join(root, FACTS)
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            facts = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}).") from None
    classes = facts.get("classes") if isinstance(facts, dict) else None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f'{path}: is not of the form {{"classes": ["cat", "dog"]}}.')
    return facts


def classes_of(root: str) -> list[str] | None:
    facts = facts_of(root)
    return facts["classes"] if facts else stated_classes(root)


def _one_kind(source: str, found: Mapping[str, ShardIndex]) -> bool:
    """Whether the samples are multi-label. Raises UserError for no labels or a mix of both kinds."""
    kinds = set(np.concatenate([np.unique(index.kind) for index in found.values()]).tolist()) - {NONE}
    if not kinds:
        raise UserError(
            f"{source}: no sample has a label. Expected beside NAME.jpg are NAME.cls (a number or a name) or NAME.json "
            '({"label": ...} or {"labels": [...]}). If it is an archive of class folders, unpack it.'
        )
    if len(kinds) > 1:
        raise UserError(f"{source}: some samples have a label, others a list of labels. Write all alike.")
    return kinds == {LABELS}


def _targets(
    store: ShardStore, parts: Sequence[ShardIndex], classes: Sequence[str], stated: bool, multilabel: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Targets of all rows, and bool [n]: which have a label."""
    position = {name: k for k, name in enumerate(classes)}
    words: list[int | str] = []
    codes: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    for part in parts:
        codes.append(part.codes + len(words))
        counts.append(np.diff(part.label_ends, prepend=0))
        words += part.words
    # A number is a class index if the classes are stated, and otherwise a class name.
    values = [word if stated and isinstance(word, int) else position.get(str(word), -1) for word in words]
    numbers, count = np.array(values, np.int64)[np.concatenate(codes)], np.concatenate(counts)
    owners = np.repeat(np.arange(len(store)), count)
    wrong = np.flatnonzero((numbers < 0) | (numbers >= len(classes)))
    if len(wrong):
        word = words[int(np.concatenate(codes)[wrong[0]])]
        allowed = f"0..{len(classes) - 1}, or one of {shown(classes)}"
        raise UserError(
            f"{store.name(int(owners[wrong[0]]))}: the label {word!r} is outside the allowed range {allowed}."
        )
    kind = np.concatenate([part.kind for part in parts])
    if multilabel:
        targets = np.zeros((len(store), len(classes)), np.float32)
        targets[owners, numbers] = 1
        return targets, kind == LABELS
    targets = np.full(len(store), -1, np.int64)
    targets[owners] = numbers
    return targets, kind == LABEL
