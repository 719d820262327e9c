"""A CSV manifest: one image a line, `path,label` or `path,labels`, optionally `split`.

    path,label              path,labels                 path,label,split
    cats/1.jpg,cat          beach.jpg,sea;sky           a.png,0,train

Paths are relative to the manifest. Several labels are separated by ";" or "|"; an empty cell is an image with
none of them. Where a file classes.txt (one name a line) lies beside the manifest, labels are its names or
their numbers from 0; otherwise the labels that occur are the classes.
"""

from __future__ import annotations

import csv
import os
import re

import numpy as np

from datasets.folder import SPLIT_NAMES
from datasets.imageset import Data, FileSet
from datasets.names import NameTable
from datasets.split import RULE, hold_out
from vit.errors import UserError, nearest, shown

Row = tuple[int, str, list[str], str]  # line, path, labels, split


def open_manifest(path: str, *, seed: int = 0, evaluation: bool = False) -> Data:
    """Read a manifest; `evaluation` as in `open_data`.

    Raises UserError, with file and line, for a wrong header or row, a label that is not in classes.txt, and
    for images that do not exist.
    """
    rows, multilabel, has_split = _rows(path)
    root = os.path.dirname(path) or "."
    _require_files(path, root, rows)
    classes = _stated_classes(root)
    if classes is None:
        classes = _occurring_classes(path, rows)
    targets = _targets(path, rows, classes, multilabel)
    whole = FileSet(classes, targets, root, NameTable.of([row[1].replace(os.sep, "/") for row in rows]))
    default = "test" if evaluation else "train"
    parts = np.array([SPLIT_NAMES[row[3]] if has_split else default for row in rows])
    rule = "the column split" if has_split else "all images are test"
    notes: list[str] = []
    if not evaluation and "train" not in parts:
        raise UserError(f"{path}: no line has the split train. Add some, or leave the column out.")
    sets = {name: whole.select(np.flatnonzero(parts == name)) for name in ("train", "val", "test") if name in parts}
    if "train" in sets and "val" not in sets:
        rule = RULE
        sets["train"], sets["val"], note = hold_out(sets["train"], seed)
        notes.append(note)
    if "train" in sets:
        notes += _compare_classes(path, sets)
    if "test" not in sets:
        notes.append("There is no test split: the report is made from val, which also chose the checkpoint.")
    return Data.of(sets, path, notes=notes, seed=seed, rule=rule)


def _rows(path: str) -> tuple[list[Row], bool, bool]:
    """All rows; whether they are multi-label; whether there is a column split."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            reader = csv.reader(file)
            table = [(reader.line_num, cells) for cells in reader if any(cells)]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: is not a CSV file in UTF-8 ({error}). Save it as such.") from None
    if not table:
        raise UserError(f"{path}: the manifest is empty. Its first line is path,label or path,labels.")
    header = [cell.strip().lower() for cell in table[0][1]]
    kinds = [name for name in ("label", "labels") if name in header]
    if "path" not in header or len(kinds) != 1:
        raise UserError(
            f"{path}, line {table[0][0]}: the columns are {shown(header)}; needed are path and label or "
            "labels (several, separated by ;)."
        )
    path_at, labels_at = header.index("path"), header.index(kinds[0])
    split_at = header.index("split") if "split" in header else None
    multilabel = kinds[0] == "labels"
    rows: list[Row] = []
    for line, cells in table[1:]:
        if len(cells) != len(header):
            raise UserError(f"{path}, line {line}: {len(cells)} cells where the header has {len(header)}.")
        labels = re.split(r"[;|]", cells[labels_at]) if multilabel else [cells[labels_at]]
        labels = [label.strip() for label in labels if label.strip()]
        if not labels and not multilabel:
            raise UserError(f"{path}, line {line}: the label is empty.")
        split = cells[split_at].strip().lower() if split_at is not None else "train"
        if split not in SPLIT_NAMES:
            raise UserError(f'{path}, line {line}: the split "{split}" is not one of train, val, test.')
        if "://" in cells[path_at]:
            raise UserError(f"{path}, line {line}: {cells[path_at]} is a URL. Download the images first.")
        rows.append((line, cells[path_at].strip(), labels, split))
    if not rows:
        raise UserError(f"{path}: has a header but no rows.")
    return rows, multilabel, split_at is not None


def _require_files(path: str, root: str, rows: list[Row]) -> None:
    missing = [f"{name} (line {line})" for line, name, _, _ in rows if not os.path.isfile(os.path.join(root, name))]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(rows)} images do not exist: {shown(missing)}. "
            f"Paths are relative to {os.path.abspath(root)}."
        )


def _stated_classes(root: str) -> list[str] | None:
    path = os.path.join(root, "classes.txt")
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8-sig") as file:
        classes = [line.strip() for line in file if line.strip()]
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if repeated:
        raise UserError(f"{path}: names a class twice: {shown(repeated)}.")
    return classes


def _occurring_classes(path: str, rows: list[Row]) -> list[str]:
    """The labels that occur: in the order of numbers if all are numbers, else of text."""
    labels = {label for row in rows for label in row[2]}
    if all(re.fullmatch(r"-?\d+", label) for label in labels):
        for line, _, own, _ in rows:
            if any(int(label) < 0 for label in own):
                raise UserError(f"{path}, line {line}: the label {own[0]} is negative; allowed are 0 and above.")
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def _targets(path: str, rows: list[Row], classes: list[str], multilabel: bool) -> np.ndarray:
    """int64 [n], or multi-hot float32 [n, K]."""
    if len(classes) < (1 if multilabel else 2):
        raise UserError(f"{path}: one class only ({shown(classes)}); two are the least.")
    position = {name: k for k, name in enumerate(classes)}
    single = np.zeros(len(rows), np.int64)
    several = np.zeros((len(rows), len(classes) if multilabel else 0), np.float32)
    for i, (line, _, labels, _) in enumerate(rows):
        for label in labels:
            k = position.get(label)
            if k is None:
                k = _number(path, line, label, classes)
            if multilabel:
                several[i, k] = 1
            else:
                single[i] = k
    return several if multilabel else single


def _number(path: str, line: int, label: str, classes: list[str]) -> int:
    where = f"{path}, line {line}: the label {label}"
    if re.fullmatch(r"-?\d+", label):
        if 0 <= int(label) < len(classes):
            return int(label)
        raise UserError(f"{where} is outside the allowed range 0..{len(classes) - 1} of classes.txt.")
    raise UserError(f"{where} is not in classes.txt.{nearest(label, classes)}")


def _compare_classes(path: str, sets: dict[str, FileSet]) -> list[str]:
    """Raise for labels that train does not have; a note for those that only train has."""
    notes = []
    trained = sets["train"].counts() > 0
    for name in ("val", "test"):
        if name not in sets:
            continue
        here = sets[name].counts() > 0
        unseen = [sets[name].classes[k] for k in np.flatnonzero(here & ~trained)]
        absent = [sets[name].classes[k] for k in np.flatnonzero(trained & ~here)]
        if unseen:
            raise UserError(f"{path}: train and {name} differ: labels only in {name}: {shown(unseen)}.")
        if absent:
            notes.append(f"Warning: {name} has no image of: {shown(absent)}.")
    return notes
