"""Tar shards of images with boxes: 000123.jpg and 000123.json.

    {"width": 640, "height": 480, "image_id": 7, "boxes": [[x1, y1, x2, y2], ...], "labels": ["cat", ...],
     "crowd": [false, ...], "area": [1234.5, ...]}

Boxes are in pixels, labels are names; crowd and area may be left out. DIR/dataset.json has the classes in their order,
and the category ids they have elsewhere.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datasets.boxset import Annotation, BoxRows, DetectionData, by_first_label
from datasets.imageset import place_of
from datasets.manifest import in_order
from datasets.rows import Named
from datasets.shard_index import BOXES, ShardIndex
from datasets.shards import ShardStore, facts_of, find_shards, left_out, load_indexes
from datasets.split import NO_TEST, RULE, hold_out
from vit.errors import UserError, nearest, shown
from vit.image import image_size


@dataclass
class _Table:
    """The boxes of one split as written; owners int64 [m] are the images they are in."""

    store: ShardStore
    places: np.ndarray
    """int64 [n]: rows of the store that are samples with boxes."""
    ids: np.ndarray
    sizes: np.ndarray
    owners: np.ndarray
    boxes: np.ndarray
    labels: list[str | int]
    crowd: np.ndarray
    area: np.ndarray
    notes: list[str] = field(default_factory=list)


def open_box_shards(source: str, *, seed: int = 0, evaluation: bool = False, strict: bool = False) -> DetectionData:
    """Read shards with boxes; the arguments are those of `open_detection`.

    Raises UserError: what `indexes` does, a .json of another form, a label that dataset.json does not have.
    """
    root, files = find_shards(source)
    found = load_indexes(root, [file for part in files.values() for file in part])
    if not shards_have_boxes(source):
        raise UserError(f"{source}: no sample has boxes: python train.py folder reads shards with labels.")
    tables = {split: _table(root, part, found) for split, part in files.items()}
    facts = facts_of(root)
    classes = facts.get("classes") or in_order(sorted({str(name) for t in tables.values() for name in t.labels}))
    ids = _category_ids(root, facts, classes)
    sets: dict[str, Any] = {}
    notes = left_out(root, found)
    for split, table in tables.items():
        sets[split] = _settle(table, classes, ids, strict, f"{source} ({split})")
        notes += table.notes
    if "all" in sets:
        sets = {"test" if evaluation else "train": sets["all"]}
    if "train" not in sets and not evaluation:
        raise UserError(f"{source}: has {shown(list(sets))} but no train.")
    rule = "as found in " + ", ".join(part[0] for part in files.values())
    if "train" in sets and "val" not in sets:
        rule = f"{rule}; {RULE}"
        train, val, note = hold_out(by_first_label(sets["train"]), seed, source)
        sets = {"train": train, "val": val, **{name: part for name, part in sets.items() if name != "train"}}
        notes.append(note)
    if "test" not in sets:
        notes.append(NO_TEST)
    return DetectionData.of(sets, source, category_ids=ids, notes=notes, seed=seed, rule=rule, place=place_of(source))


def shards_have_boxes(source: str) -> bool:
    root, files = find_shards(source)
    found = load_indexes(root, [file for part in files.values() for file in part])
    return any((index.kind == BOXES).any() for index in found.values())


def _category_ids(root: str, facts: Mapping[str, Any], classes: list[str]) -> list[int]:
    ids = facts.get("category_ids", list(range(len(classes))))
    if not isinstance(ids, list) or len(ids) != len(classes) or not all(isinstance(k, int) for k in ids):
        raise UserError(f"{root}: dataset.json has {len(classes)} classes and the category_ids {ids}.")
    return ids


def _table(root: str, files: list[str], found: Mapping[str, ShardIndex]) -> _Table:
    """Parse the .json of every sample of some shards."""
    parts = [found[file] for file in files]
    store = ShardStore(root, files, parts)
    kind = np.concatenate([part.kind for part in parts])
    offsets, lengths = (np.concatenate([getattr(p, name) for p in parts]) for name in ("text_offset", "text_size"))
    places = np.flatnonzero(kind == BOXES)
    ids, sizes, counts = [], [], []
    boxes, crowd, area = array("d"), array("b"), array("d")
    labels: list[str | int] = []
    for row in places.tolist():
        where = store.name(row)
        sample = _parsed(where, store.bytes_at(row, int(offsets[row]), int(lengths[row])))
        n = len(sample["boxes"])
        for box in sample["boxes"]:
            boxes.extend(box)
        labels += sample["labels"]
        crowd.extend(bool(value) for value in sample.get("crowd") or [0] * n)
        area.extend(sample.get("area") or [math.nan] * n)
        counts.append(n)
        ids.append(sample.get("image_id"))
        size = (sample.get("height"), sample.get("width"))
        sizes.append(size if all(isinstance(s, int) for s in size) else image_size(Named(store.file(row)[1], where)))
    own = all(isinstance(k, int) for k in ids) and len(set(ids)) == len(ids)
    notes = []
    if len(places) < len(store):
        notes.append(f"Left out {len(store) - len(places)} images of {', '.join(files[:3])} without boxes in a .json.")
    return _Table(
        store,
        places,
        np.array(ids if own else range(1, len(ids) + 1), np.int64),
        np.array(sizes, np.int64).reshape(-1, 2),
        np.repeat(np.arange(len(places)), counts),
        np.array(boxes, np.float64).reshape(-1, 4),
        labels,
        np.array(crowd, bool),
        np.array(area, np.float64),
        notes,
    )


def _parsed(where: str, content: bytes) -> dict[str, Any]:
    try:
        sample = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: its .json cannot be read ({error}).") from None
    n = len(sample["boxes"]) if isinstance(sample.get("boxes"), list) else -1
    fours = n >= 0 and all(
        isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)
        for box in sample["boxes"]
    )
    kinds: dict[str, type] = {"labels": str | int, "crowd": int, "area": int | float}  # type: ignore[dict-item]
    for name, kind in kinds.items():
        values = sample.get(name) or ([] if name == "labels" else [0] * n)
        fours = fours and isinstance(values, list) and len(values) == n and all(isinstance(v, kind) for v in values)
    if not fours:
        raise UserError(
            f'{where}: its .json is not of the form {{"width": W, "height": H, "boxes": [[x1, y1, x2, y2], ...], '
            '"labels": [NAME, ...]}, with as many labels as boxes.'
        )
    sample["labels"] = sample.get("labels") or []
    return sample


def _settle(table: _Table, classes: list[str], ids: list[int], strict: bool, where: str) -> BoxRows:
    """Boxes within their images. What is left out or cut is told in the table's notes, as every reader does."""
    extent = table.sizes[table.owners][:, [1, 0, 1, 0]].astype(np.float64)
    finite = np.isfinite(table.boxes).all(axis=1)
    if strict and not finite.all():
        row = int(table.places[table.owners[np.flatnonzero(~finite)[0]]])
        raise UserError(f"{table.store.name(row)}: a box has NaN or infinity.")
    boxes = np.where(finite[:, None], table.boxes, 0.0)
    beyond = ((boxes < -0.5) | (boxes > extent + 0.5)).any(axis=1) & finite
    cut = np.clip(boxes, 0.0, extent).astype(np.float32)
    kept = finite & (cut[:, 2:] > cut[:, :2]).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    known: dict[str | int, int] = {**{k: i for i, k in enumerate(ids)}, **{name: i for i, name in enumerate(classes)}}
    labels = np.array([known.get(label, -1) for label in table.labels], np.int64)
    wrong = np.flatnonzero(kept & (labels < 0))
    if len(wrong):
        label = table.labels[wrong[0]]
        row = int(table.places[table.owners[wrong[0]]])
        raise UserError(
            f"{table.store.name(row)}: the label {label!r} is none of the classes in dataset.json: {shown(classes)}."
            f"{nearest(str(label), classes)}"
        )
    n, odd, empty = len(kept), int((~finite).sum()), int((finite & ~kept).sum())
    if odd:
        table.notes.append(f"Warning: {where}: {odd} boxes are NaN or infinite: left out.")
    if empty:
        table.notes.append(f"{where}: {empty} boxes have a side of 0 or less: left out.")
    if (beyond & kept).sum() > 0.01 * n:
        count = int((beyond & kept).sum())
        table.notes.append(f"Warning: {where}: {count} of {n} boxes reach beyond their image and were cut.")
    counts = np.bincount(table.owners[kept], minlength=len(table.places))
    if (counts == 0).any():
        table.notes.append(f"{where}: {int((counts == 0).sum())} images have no boxes: they are kept as negatives.")
    cut, area = cut[kept], table.area[kept]
    area = np.where(np.isfinite(area) & (area > 0), area, (cut[:, 2:] - cut[:, :2]).prod(axis=1)).astype(np.float32)
    rows = Annotation(cut, labels[kept], table.crowd[kept], area)
    return BoxRows(classes, table.store, table.places, np.cumsum(counts), rows, table.ids, table.sizes)
