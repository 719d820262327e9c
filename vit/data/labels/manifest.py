"""Read manifests, one image per row: `path,label` or `path,labels`, optional `split`; CSV, TSV, JSON lines or Parquet.

    path,label              path,labels                 path,label,split
    cats/1.jpg,cat          beach.jpg,sea;sky           a.png,0,train

Paths are relative to the manifest. Several labels are separated by ";" or "|"; in JSON and Parquet they may be a list.
An image with an empty `labels` belongs to no class. If classes.txt (one name per line) is next to the manifest, labels
are its names or their 0-based numbers; otherwise the labels that occur are the classes. Without a split column, files
such as train.csv and val.csv in one folder are the splits.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vit.data.labels.manifest_files import place, read_rows
from vit.data.sets.data import Data
from vit.data.sets.imageset import FileSet
from vit.data.sets.names import NameTable
from vit.data.split import with_splits
from vit.data.split_names import SPLIT_NAMES
from vit.errors import UserError, nearest, shown

PARTS = ("train", "val", "test", "all")


@dataclass
class _Table:
    """All rows of all files in arrays; a million rows as Python objects would take a gigabyte."""

    files: tuple[str, ...]
    names: NameTable
    file: np.ndarray
    """int64 [n]: each row's index in `files`; `line` is its line there."""
    line: np.ndarray
    part: np.ndarray
    """int64 [n]: index in PARTS."""
    labels: np.ndarray
    """int64 [m]: indices in `words`; those of row i end at ends[i]."""
    ends: np.ndarray
    words: list[str]
    multilabel: bool

    def place(self, row: int) -> str:
        return place(self.files[int(self.file[row])], int(self.line[row]))

    def owners(self) -> np.ndarray:
        """int64 [m]: the row of each label."""
        return np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))


def open_manifest(
    source: str, files: Mapping[str, str] | None = None, *, seed: int | None = 0, evaluation: bool = False
) -> Data:
    """Read a manifest; `evaluation` as in `open_data`. files: {split: manifest} of the folder `source`, "all" for one
    that holds all rows; by default, `source` is the file.

    Raises UserError, with file and line, for an invalid header or row, a label not in classes.txt, and missing images.
    """
    files = files or {"all": source}
    table = _read(files)
    root = os.path.dirname(next(iter(files.values()))) or "."
    where = source if len(files) > 1 else table.files[0]
    _require_files(where, root, table)
    classes = stated_classes(root)
    stated = classes is not None
    if classes is None:
        classes = _occurring_classes(table)
    if len(classes) < (1 if table.multilabel else 2):
        raise UserError(f"{where}: one class only ({shown(classes)}); two are the least.")
    whole = FileSet(classes, _targets(table, classes, stated), root, table.names)
    found = {name: np.flatnonzero(table.part == k) for k, name in enumerate(PARTS)}
    sets = {name: whole.select(rows) for name, rows in found.items() if len(rows)}
    if not evaluation and "all" not in sets and "train" not in sets:
        raise UserError(f"{where}: no line has the split train. Add some, or leave the column out.")
    rule = "the column split" if len(files) == 1 else "as found in " + ", ".join(table.files)
    return with_splits(sets, source, seed=seed, evaluation=evaluation, rule=rule, where=where)


def _read(files: Mapping[str, str]) -> _Table:
    blob, ends, line, file_of, part = bytearray(), array("q"), array("q"), array("q"), array("q")
    labels, label_ends = array("q"), array("q")
    codes: dict[str, int] = {}
    kinds: dict[str, bool] = {}
    for number, (split, path) in enumerate(files.items()):
        columns, rows = read_rows(path)
        kinds[path] = columns.multilabel
        begun = len(ends)
        for row in rows:
            blob += os.fsencode(row.path.replace(os.sep, "/"))
            ends.append(len(blob))
            line.append(row.line)
            file_of.append(number)
            named = split if row.split is None else SPLIT_NAMES.get(row.split)
            if named is None:
                raise UserError(f'{place(path, row.line)}: the split "{row.split}" is not one of train, val, test.')
            part.append(PARTS.index(named))
            labels.extend([codes.setdefault(label, len(codes)) for label in row.labels])
            label_ends.append(len(labels))
        if len(ends) == begun:
            raise UserError(f"{path}: has a header but no rows.")
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{path} has {'labels' if many else 'label'}" for path, many in kinds.items())
        raise UserError(f"{told}: the same column in every file, please.")
    names = NameTable(np.frombuffer(bytes(blob), np.uint8), _array(ends))
    return _Table(
        tuple(files.values()),
        names,
        file=_array(file_of),
        line=_array(line),
        part=_array(part),
        labels=_array(labels),
        ends=_array(label_ends),
        words=list(codes),
        multilabel=next(iter(kinds.values())),
    )


def _array(values: array[int]) -> np.ndarray:
    return np.array(values, np.int64)


def _require_files(where: str, root: str, table: _Table) -> None:
    # Report each missing image with its line, and with its file if there are several.
    missing: list[str] = []
    count, only = 0, next(iter(table.files))
    for i, name in enumerate(table.names.encoded()):
        if not os.path.isfile(os.path.join(os.fsencode(root), name)):
            count += 1
            if len(missing) < 10:
                there = table.place(i) if len(table.files) > 1 else table.place(i).removeprefix(f"{only}, ")
                missing.append(f"{os.fsdecode(name)} ({there})")
    if missing:
        more = f" and {count - len(missing)} more" if count > len(missing) else ""
        raise UserError(
            f"{where}: {count} of {len(table.line)} images do not exist: {shown(missing)}{more}. "
            f"Paths are relative to {os.path.abspath(root)}."
        )


def stated_classes(root: str) -> list[str] | None:
    path = os.path.join(root, "classes.txt")
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8-sig") as file:
        classes = [line.strip() for line in file if line.strip()]
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if repeated:
        raise UserError(f"{path}: names a class twice: {shown(repeated)}.")
    return classes


def in_order(labels: Sequence[str]) -> list[str]:
    """Sort labels into classes: numerically if all are integers, else as text."""
    if all(re.fullmatch(r"-?\d+", label) for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def _occurring_classes(table: _Table) -> list[str]:
    classes = in_order(table.words)
    if classes and re.fullmatch(r"-\d+", classes[0]) and all(re.fullmatch(r"-?\d+", name) for name in classes):
        negative = [code for code, word in enumerate(table.words) if word.startswith("-")]
        first = int(np.flatnonzero(np.isin(table.labels, negative))[0])
        word = table.words[table.labels[first]]
        raise UserError(
            f"{table.place(int(table.owners()[first]))}: the label {word} is negative; allowed are 0 and above."
        )
    return classes


def _targets(table: _Table, classes: Sequence[str], stated: bool) -> np.ndarray:
    """int64 [n], or multi-hot float32 [n, K]."""
    position = {name: k for k, name in enumerate(classes)}
    numbers = np.array([position.get(word, -1) for word in table.words], np.int64)
    for code in np.flatnonzero(numbers < 0) if stated else ():
        word = table.words[code]
        if re.fullmatch(r"\d+", word) and int(word) < len(classes):
            numbers[code] = int(word)
    wrong = np.flatnonzero(numbers[table.labels] < 0)
    if len(wrong):
        label = table.words[table.labels[wrong[0]]]
        where = f"{table.place(int(table.owners()[wrong[0]]))}: the label {label}"
        if re.fullmatch(r"-?\d+", label):
            raise UserError(f"{where} is outside the allowed range 0..{len(classes) - 1} of classes.txt.")
        raise UserError(f"{where} is not in classes.txt.{nearest(label, classes)}")
    if not table.multilabel:
        return numbers[table.labels]
    targets = np.zeros((len(table.ends), len(classes)), np.float32)
    targets[table.owners(), numbers[table.labels]] = 1
    return targets
