"""Determine the classes of formats that have only names, or read them from categories.csv."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping

from vit.data.boxes.draft import Categories, Draft
from vit.data.check.findings import Findings
from vit.errors import UserError, nearest

PINNED = "categories.csv"
"""`id,name` lines next to the annotations: fixes class order and ids, and includes classes without boxes."""


def named_classes(drafts: Mapping[str, Draft], source: str, findings: Findings) -> Categories:
    """The classes in `categories.csv`, or else the labels that occur, in alphabetical order.

    Integer labels are their own ids; other names get 1, 2, ... in order. Without the file, a label that only val or
    test has is reported as an error.
    """
    pinned = pinned_categories(source)
    if pinned is not None:
        return pinned
    here = {split: {str(label) for label in draft.labels} for split, draft in drafts.items()}
    trained = here.get("train", set())
    for split, labels in here.items():
        only = sorted(labels - trained) if trained else []
        names = [f"{label} only in {split}.{nearest(label, trained)}" for label in only]
        findings.add("classes-differ", drafts[split].where, names, len(names))
    return categories_of(set().union(*here.values()))


def categories_of(labels: set[str]) -> Categories:
    """Number the labels that occur."""
    if labels and all(re.fullmatch(r"\d{1,9}", label) for label in labels):
        names = sorted(labels, key=lambda label: (int(label), label))
        if len({int(label) for label in labels}) == len(labels):
            return Categories(tuple(names), tuple(map(int, names)))
    names = sorted(labels)
    return Categories(tuple(names), tuple(range(1, len(names) + 1)))


def pinned_categories(source: str) -> Categories | None:
    """Read categories.csv; None if there is none. Raises UserError, with the line, for an invalid file."""
    file = os.path.join(source if os.path.isdir(source) else os.path.dirname(source), PINNED)
    if not os.path.isfile(file):
        return None
    ids: list[int] = []
    names: list[str] = []
    with open(file, encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream)
        if next(rows, None) != ["id", "name"]:
            raise UserError(f"{file}: the first line must be id,name.")
        for row in rows:
            if len(row) != 2 or not re.fullmatch(r"-?\d+", row[0]) or int(row[0]) in ids or row[1] in names:
                raise UserError(f"{file}, line {rows.line_num}: {row} is not a new id, a whole number, and a new name.")
            ids.append(int(row[0]))
            names.append(row[1])
    if not names:
        raise UserError(f"{file}: names no class. Remove it, or name the classes.")
    return Categories(tuple(names), tuple(ids))
