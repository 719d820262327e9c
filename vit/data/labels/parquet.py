"""Read Hugging Face Parquet files: an image column with bytes, a label column, and class names in the metadata.

    DIR/data/train-00000-of-00003.parquet, DIR/train/0000.parquet, DIR/test.parquet, ...

The schema's metadata key `huggingface` names the image column and the classes. Files without it are read if the
columns are unambiguous.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from vit.data.labels.manifest import in_order
from vit.data.sets.data import Data
from vit.data.sets.rows import RowSet
from vit.data.split import with_splits
from vit.data.split_names import by_split, split_of
from vit.data.store.arrow import damaged, open_parquet_file
from vit.data.store.parquet_store import KEPT_BYTES, ParquetStore
from vit.errors import UserError, nearest, shown

LABELS = ("label", "labels", "class", "target")
IMAGES = ("image", "img", "jpg", "png", "picture", "photo")


class Layout(NamedTuple):
    """The roles of the columns in one file."""

    image: str
    label: str
    classes: tuple[str, ...] | None
    """Class names, if the file has them."""


def open_parquet(
    source: str,
    root: str | None = None,
    *,
    column: str | None = None,
    seed: int | None = 0,
    evaluation: bool = False,
) -> Data:
    """Read a folder of Parquet files, or one file; `evaluation` as in `open_data`.

    root: the location of the files, if not `source`. column: the label column, if there are several.

    Raises UserError for several data sets in one folder, missing or ambiguous image or label columns, labels out of
    range, damaged files, and if pyarrow is not installed.
    """
    root = root or source
    if os.path.isfile(root):
        root, files = os.path.dirname(root) or ".", {"all": [os.path.basename(root)]}
    else:
        files = by_split(_one_data_set(source, root, parquet_files(root)), source)
    layouts = {file: layout_of(root, file, column) for part in files.values() for file in part}
    _require_alike(root, layouts)
    layout = next(iter(layouts.values()))
    notes: list[str] = []
    read = {split: _labels(root, part, layout) for split, part in files.items()}
    classes = layout.classes or in_order(sorted({word for labels in read.values() for word in labels.words}))
    sets: dict[str, RowSet] = {}
    for split, part in files.items():
        store = ParquetStore(root, part, layout.image)
        targets, known = _targets(read[split], classes, layout, store)
        if not known.all():
            notes.append(f"Left out {int((~known).sum())} images of {split} that have no label.")
        if known.any():
            sets[split] = RowSet(classes, targets[known], store, np.flatnonzero(known))
            notes += _slow(source, store)
    if not sets:
        raise UserError(f"{source}: none of its rows has a label in the column {layout.label}.")
    rule = "as found in " + ", ".join(file for part in files.values() for file in part[:1])
    return with_splits(sets, source, seed=seed, evaluation=evaluation, rule=rule, notes=list(dict.fromkeys(notes)))


def parquet_files(root: str) -> list[str]:
    """All Parquet files below root, relative to it, sorted."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.relpath(os.path.join(folder, name), root) for name in names if name.endswith(".parquet")]
    return sorted(name for name in found if not os.path.basename(name).startswith("."))


def _one_data_set(source: str, root: str, files: list[str]) -> list[str]:
    """The files, if all belong to one data set (a configuration, on the Hub); otherwise raises UserError."""
    if not files:
        raise UserError(f"{source}: no .parquet files.")
    configurations = {_configuration(file) for file in files}
    if len(configurations) > 1:
        inside = sorted(name or "." for name in configurations)
        raise UserError(
            f"{source}: holds {len(inside)} data sets, in the folders {shown(inside)}. Give one of them: "
            f"{source.rstrip('/')}/{next(name for name in inside if name != '.')}."
        )
    return files


def _configuration(file: str) -> str:
    parts = PurePath(file).parts[:-1]
    return "/".join(part for part in parts if part != "data" and split_of(part) is None)


def layout_of(root: str, file: str, column: str | None = None) -> Layout:
    path = os.path.join(root, file)
    schema = open_parquet_file(path).schema_arrow
    features = features_of(schema)
    image = image_column(path, schema, features)
    names = [name for name in schema.names if name != image]
    if column is not None and column not in names:
        raise UserError(f"{path}: has no column {column!r}.{nearest(column, names)} Its columns: {shown(names)}.")
    classes = {name: found for name in names if (found := _class_names(features.get(name))) is not None}
    if "objects" in names and not classes:
        raise UserError(f"{path}: its objects have boxes: vitral train detect reads it.")
    candidates = [column] if column is not None else list(classes)
    if len(candidates) != 1:
        # If the metadata name several label columns or none, fall back to the usual names.
        among = candidates or names
        candidates = [next(name for name in LABELS if name in among)] if any(n in among for n in LABELS) else candidates
    if len(candidates) != 1:
        told = f"several label columns ({shown(candidates)})" if candidates else f"no label column among {shown(names)}"
        raise UserError(f"{path}: {told}. Name one after a #: PATH#{(candidates or names or ['label'])[0]}.")
    return Layout(image, candidates[0], classes.get(candidates[0]))


def features_of(schema: Any) -> dict[str, Any]:
    """Return {column: its Hugging Face feature}; {} if the file has none."""
    try:
        content = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = content["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def image_column(path: str, schema: Any, features: dict[str, Any]) -> str:
    """The image column. Raises UserError if it is missing or ambiguous."""
    said = [name for name in schema.names if isinstance(f := features.get(name), dict) and f.get("_type") == "Image"]
    if not said:
        kinds = {name: schema.field(name).type for name in schema.names}
        structs = [name for name, kind in kinds.items() if _is_image_struct(kind)]
        plain = [name for name, kind in kinds.items() if str(kind) in ("binary", "large_binary") and name in IMAGES]
        said = structs or plain
    if len(said) > 1:
        said = [name for name in IMAGES if name in said][:1] or said
    if len(said) != 1:
        told = (
            f"several columns of images ({shown(said)})" if said else f"no column of images among {shown(schema.names)}"
        )
        raise UserError(f"{path}: {told}. Read are columns with the bytes of image files, as Hugging Face writes them.")
    return said[0]


def _is_image_struct(kind: Any) -> bool:
    names = [kind.field(k).name for k in range(kind.num_fields)] if str(kind).startswith("struct") else []
    return "bytes" in names


def _class_names(feature: Any) -> tuple[str, ...] | None:
    """The names of a ClassLabel, or of a list of ClassLabels."""
    if isinstance(feature, list) and len(feature) == 1:  # early versions wrote lists like this
        feature = feature[0]
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") in ("Sequence", "List", "LargeList"):
        return _class_names(feature.get("feature"))
    if feature.get("_type") != "ClassLabel":
        return None
    names = feature.get("names")
    if isinstance(names, list) and names:
        return tuple(map(str, names))
    count = feature.get("num_classes")
    return tuple(map(str, range(count))) if isinstance(count, int) and 0 < count < 2**20 else None


def _require_alike(root: str, layouts: dict[str, Layout]) -> None:
    (first, wanted), *others = layouts.items()
    for file, layout in others:
        if layout != wanted:
            ours, theirs = wanted.classes or (), layout.classes or ()
            told = f"the columns are {wanted.image}, {wanted.label} in one, {layout.image}, {layout.label} in the other"
            if (layout.image, layout.label) == (wanted.image, wanted.label):
                differ = sorted({*ours} ^ {*theirs}) or "their order"
                told = f"the classes differ: {differ if isinstance(differ, str) else shown(differ)}"
            raise UserError(f"{os.path.join(root, first)} and {file} are of different data sets: {told}.")


class _Labels(NamedTuple):
    """codes int64 [m]: indices in `words`, -1 for none; counts int64 [n]: labels per row, None for one each."""

    codes: np.ndarray
    counts: np.ndarray | None
    words: list[str]
    integers: bool
    """Whether the file stores the words as integers."""


def _labels(root: str, files: Sequence[str], layout: Layout) -> _Labels:
    """Read the label column of some files; values become words, such as "3" for 3."""
    places: dict[str, int] = {}
    codes: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    several: set[bool] = set()
    integers = True
    for file in files:
        path = os.path.join(root, file)
        opened = open_parquet_file(path)
        try:
            column = opened.read(columns=[layout.label], use_threads=False).column(0)
        except Exception as error:
            raise damaged(path, error) from None
        for chunk in column.chunks:
            several.add("list" in str(chunk.type))
            if "list" in str(chunk.type):
                counts.append(chunk.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64))
                chunk = chunk.flatten()
            encoded = chunk.dictionary_encode()
            words = encoded.dictionary.to_pylist()
            if any(isinstance(word, float | bytes | dict) for word in words):
                raise UserError(f"{path}: the labels in the column {layout.label} are neither whole numbers nor text.")
            integers &= not any(isinstance(word, str) for word in words)
            table = np.array([places.setdefault(str(word), len(places)) for word in words] + [-1], np.int64)
            codes.append(table[encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False).astype(np.int64)])
    joined = np.concatenate(codes) if codes else np.empty(0, np.int64)
    return _Labels(joined, np.concatenate(counts) if several == {True} else None, list(places), integers)


def _targets(
    labels: _Labels, classes: Sequence[str], layout: Layout, store: ParquetStore
) -> tuple[np.ndarray, np.ndarray]:
    """Targets of all rows, and bool [n]: which have one. Hugging Face writes -1 for a row without a label."""
    owners = np.arange(len(store)) if labels.counts is None else np.repeat(np.arange(len(store)), labels.counts)
    if layout.classes is not None and labels.integers:
        values = list(map(int, labels.words))
    else:
        position = {name: k for k, name in enumerate(classes)}
        values = [position.get(word, len(classes)) for word in labels.words]
    numbers = np.array([*values, -1], np.int64)[labels.codes]
    wrong = (numbers < -1) | (numbers >= len(classes))
    if layout.classes is None and labels.integers:
        negative = [code for code, word in enumerate(labels.words) if int(word) < 0]
        wrong |= np.isin(labels.codes, negative)
    if wrong.any():
        k = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{store.name(int(owners[k]))}: the label {labels.words[labels.codes[k]]} is outside the allowed range "
            f"0..{len(classes) - 1} of its {len(classes)} classes."
        )
    if labels.counts is None:
        return numbers, numbers >= 0
    targets = np.zeros((len(store), len(classes)), np.float32)
    targets[owners[numbers >= 0], numbers[numbers >= 0]] = 1
    return targets, np.ones(len(store), bool)


def _slow(source: str, store: ParquetStore) -> list[str]:
    """A note if reading in random order decodes far more than it uses."""
    if store.bytes <= KEPT_BYTES or store.groups == 0:
        return []
    each = store.bytes / store.groups
    return [
        f"{source}: each image is read with its row group of {each / 2**20:.0f} MB, since rows come in random order. "
        f"Faster: --cache disk, or vitral data pack {source} OUT."
    ]
