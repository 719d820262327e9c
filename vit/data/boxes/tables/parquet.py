"""Read Hugging Face detection Parquet files (an image column with bytes, and `objects`) into a Draft.

`objects` holds lists by name (bbox, category, optionally iscrowd and area), or a list of objects. Categories are names,
or numbers whose names are in the schema's metadata. The files do not record the box format; see `vit.data.boxes.order`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from vit.data.boxes.draft import UNTOLD, Categories, Draft, Drafts, allowed
from vit.data.boxes.named_classes import named_classes
from vit.data.boxes.tables.objects import LABEL, Thing, key_of, things
from vit.data.check.findings import Findings
from vit.data.labels.parquet import features_of, image_column, parquet_files
from vit.data.split_names import by_split
from vit.data.store.arrow import damaged, open_parquet_file
from vit.data.store.parquet_store import ParquetStore
from vit.errors import UserError

EXPECTED = "Parquet files with the columns image and objects (bbox, category)"
SUFFIX = ".parquet"
NONE = Categories((), ())
OBJECTS = ("objects", "annotations", "boxes")


def look(source: str) -> str:
    """The Parquet files with boxes in a folder, for a message; "" if there are none."""
    files = [os.path.join(source, f) for f in parquet_files(source)] if os.path.isdir(source) else [source]
    try:
        if not files or _objects_column(files[0]) is None:
            return ""
    except UserError:
        return ""
    first = os.path.relpath(files[0], source) if os.path.isdir(source) else source
    return f"{first} and {len(files) - 1} more" if len(files) > 1 else first


def read(source: str, findings: Findings) -> Drafts:
    """Read a folder of Parquet files, or one file.

    Raises UserError for missing columns, damaged files, and if pyarrow is not installed.
    """
    if os.path.isfile(source):
        root, files = os.path.dirname(source) or ".", {"all": [os.path.basename(source)]}
    else:
        root, files = source, by_split(parquet_files(source), source)
    parts = {split: _draft(root, part, source, split, findings) for split, part in files.items()}
    told = {file: _told_classes(os.path.join(root, file)) for part in files.values() for file in part}
    (first, wanted), *others = told.items()
    for file, classes in others:
        if classes != wanted:
            only = sorted({*(wanted or NONE).names} ^ {*(classes or NONE).names}) or ["the order of the names"]
            findings.add(
                "classes-differ", file, [f"{name}: not in both {first} and {file}" for name in only], len(only)
            )
    categories = wanted or named_classes(parts, source, findings)
    if wanted is not None:
        _name_numbers(parts, wanted)
    return Drafts(parts, categories, "as found in " + ", ".join(part[0] for part in files.values()))


def _draft(root: str, files: list[str], source: str, split: str, findings: Findings) -> Draft:
    path = os.path.join(root, files[0])
    schema = open_parquet_file(path).schema_arrow
    store = ParquetStore(root, files, image_column(path, schema, features_of(schema)))
    draft = Draft(f"{source} ({split})", root, mark="object {}", guess=True, store=store)
    for row, values in enumerate(_rows(root, files)):
        height: Any = values.get("height")
        width: Any = values.get("width")
        number = values.get("image_id")
        told = isinstance(height, int) and isinstance(width, int) and min(height, width) > 0
        size = (height, width) if told else UNTOLD
        owner = draft.image(store.name(row), size, number if isinstance(number, int) else None)
        try:
            found = things(values["objects"])
        except UserError as error:
            findings.add("annotation-malformed", draft.where, f"{store.name(row)}: {error}")
            continue
        for k, thing in enumerate(found, 1):
            if isinstance(thing, Thing):
                draft.box(owner, k, thing.box, thing.label, crowd=thing.crowd, area=thing.area)
            else:
                findings.add("annotation-malformed", draft.where, f"{store.name(row)}, object {k}: {thing}")
    if len(set(draft.ids)) < len(draft.ids):  # each row is its own image, even if image_id repeats
        draft.ids = list(range(1, len(draft.ids) + 1))
    return draft


def _rows(root: str, files: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the columns except the image, row by row."""
    for file in files:
        path = os.path.join(root, file)
        column = _objects_column(path)
        if column is None:
            raise UserError(f"{path}: has no column {OBJECTS[0]} with boxes. Expected are {EXPECTED}.")
        opened = open_parquet_file(path)
        wanted = [name for name in ("image_id", "width", "height") if name in opened.schema_arrow.names]
        try:
            for batch in opened.iter_batches(1024, columns=[column, *wanted], use_threads=False):
                for row in batch.to_pylist():
                    yield {**row, "objects": row[column]}
        except Exception as error:
            raise damaged(path, error) from None


def _objects_column(path: str) -> str | None:
    """The column that holds boxes: a struct, or a list of structs."""
    schema = open_parquet_file(path).schema_arrow
    return next((name for name in OBJECTS if name in schema.names and "struct" in str(schema.field(name).type)), None)


def _told_classes(path: str) -> Categories | None:
    """The class names in the metadata; ids are their positions unless `convert` wrote others."""
    schema = open_parquet_file(path).schema_arrow
    column = _objects_column(path)
    names = _class_names(features_of(schema).get(column or ""))
    if names is None:
        return None
    try:
        ids = json.loads((schema.metadata or {}).get(b"category_ids", b"null"))
    except ValueError:
        ids = None
    if isinstance(ids, list) and len(ids) == len(names) and all(isinstance(k, int) for k in ids):
        return Categories(names, tuple(ids))
    return Categories(names, tuple(range(len(names))))


def _class_names(feature: Any) -> tuple[str, ...] | None:
    """The names of the ClassLabel in the fields of `objects`, at any depth."""
    if isinstance(feature, list) and feature:
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return None
    names = feature.get("names")
    if feature.get("_type") == "ClassLabel" and isinstance(names, list) and names:
        return tuple(map(str, names))
    key = key_of(feature, LABEL)
    return _class_names(feature.get(key) if key is not None else feature.get("feature"))


def _name_numbers(parts: Mapping[str, Draft], categories: Categories) -> None:
    """Replace numeric labels, which are positions and not ids, by class names."""
    names = categories.names
    for draft in parts.values():
        draft.allowed = allowed(Categories(names, tuple(range(len(names)))))
        draft.labels = [
            (names[label] if 0 <= label < len(names) else f"category {label}") if isinstance(label, int) else label
            for label in draft.labels
        ]
