"""Read tar shards of images with boxes (000123.jpg and 000123.json) into a Draft.

    {"width": 640, "height": 480, "image_id": 7, "boxes": [[x1, y1, x2, y2], ...], "labels": ["cat", ...],
     "crowd": [false, ...], "area": [1234.5, ...]}

Boxes are in pixels and labels are names; crowd and area are optional. DIR/dataset.json lists the classes in order and
their original category ids.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit.data.boxes.draft import UNTOLD, Categories, Draft, Drafts
from vit.data.boxes.named_classes import named_classes
from vit.data.boxes.tables.objects import Thing, things
from vit.data.check.findings import Findings
from vit.data.labels.evidence import evidence, is_shards
from vit.data.labels.shards import ShardStore, facts_of, find_shards, load_indexes
from vit.data.store.shard_index import BOXES, ShardIndex
from vit.errors import UserError

EXPECTED = "tar shards with NAME.jpg and NAME.json (boxes and labels)"
SUFFIX = ".tar"
FORM = "xmin, ymin, xmax, ymax in pixels"


def look(source: str) -> str:
    """The shards with boxes in a folder, for a message; "" if there are none."""
    if "shards" not in evidence(source) if os.path.isdir(source) else not is_shards(source):
        return ""
    try:
        root, files = find_shards(source)
        names = [file for part in files.values() for file in part]
        boxes = any((index.kind == BOXES).any() for index in load_indexes(root, names).values())
    except UserError:
        return ""  # the label shard reader reports what is wrong
    return f"{names[0]} and {len(names) - 1} more" if boxes and len(names) > 1 else names[0] if boxes else ""


def read(source: str, findings: Findings) -> Drafts:
    """Read a folder of shards, one shard, or a pattern.

    Raises UserError for an invalid dataset.json, and where `vit.data.store.shard_index.indexes` does.
    """
    root, files = find_shards(source)
    found = load_indexes(root, [file for part in files.values() for file in part])
    for file, index in found.items():
        findings.add("file-empty", file, index.empty, len(index.empty))
        findings.add("annotation-unlisted", file, "samples without an image", index.without_image)
    drafts = {split: _draft(root, part, found, f"{source} ({split})", findings) for split, part in files.items()}
    categories = _categories(root) or named_classes(drafts, source, findings)
    return Drafts(drafts, categories, "as found in " + ", ".join(part[0] for part in files.values()))


def _categories(root: str) -> Categories | None:
    facts = facts_of(root)
    classes = facts.get("classes")
    if classes is None:
        return None
    ids = facts.get("category_ids", list(range(len(classes))))
    if not isinstance(ids, list) or len(ids) != len(classes) or not all(isinstance(k, int) for k in ids):
        raise UserError(f"{root}: dataset.json has {len(classes)} classes and the category_ids {str(ids)[:80]}.")
    return Categories(tuple(classes), tuple(ids))


def _draft(root: str, files: list[str], found: Mapping[str, ShardIndex], where: str, findings: Findings) -> Draft:
    """Parse the .json of every sample in the shards."""
    parts = [found[file] for file in files]
    store = ShardStore(root, files, parts)
    places = np.flatnonzero(np.concatenate([part.kind for part in parts]) == BOXES)
    offsets, lengths = (np.concatenate([getattr(p, name) for p in parts]) for name in ("text_offset", "text_size"))
    draft = Draft(where, root, form=FORM, mark="object {}", store=store, places=places)
    bare = len(store) - len(places)
    names = (store.name(row) for row in np.setdiff1d(np.arange(len(store)), places)[:10].tolist())
    findings.add("image-unlisted", where, names, bare, of=len(store))
    ids: list[Any] = []
    for row in places.tolist():
        name = store.name(row)
        content = store.bytes_at(row, int(offsets[row]), int(lengths[row]))
        try:
            sample = json.loads(content)
            rows = things(_columns(sample))
        except (ValueError, RecursionError) as error:
            findings.add("annotation-malformed", where, f"{name}: {error}", of=len(places))
            sample, rows = {}, []
        height, width = sample.get("height"), sample.get("width")
        told = isinstance(height, int) and isinstance(width, int) and min(height, width) > 0
        owner = draft.image(name, (height, width) if told else UNTOLD)  # pyright: ignore[reportArgumentType]
        ids.append(sample.get("image_id"))
        for k, thing in enumerate(rows, 1):
            if isinstance(thing, Thing):
                draft.box(owner, k, thing.box, thing.label, crowd=thing.crowd, area=thing.area)
            else:
                findings.add("annotation-malformed", where, f"{name}, object {k}: {thing}", of=len(places))
    if all(isinstance(k, int) for k in ids) and len(set(ids)) == len(ids):
        draft.ids = ids
    return draft


def _columns(sample: dict[str, Any]) -> dict[str, Any]:
    boxes, labels = sample.get("boxes"), sample.get("labels", [])
    if not isinstance(boxes, list) or not isinstance(labels, list):
        raise UserError("boxes and labels must be lists")
    return {"bbox": boxes, "category": labels, **{k: sample[k] for k in ("crowd", "area") if sample.get(k)}}
