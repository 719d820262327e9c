"""Writes images with labels or boxes as Parquet files in the layout of Hugging Face, which contain the images.

OUT/data/SPLIT-00000-of-00002.parquet: `image` (bytes and path) with `label`, `labels` or `objects` (bbox as x, y,
width, height; category, iscrowd, area). The schema's metadata names the classes, as `datasets.load_dataset` expects.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vit.data.sets.boxset import Annotation
from vit.data.store.arrow import parquet_module
from vit.data.write.numbers import shortest
from vit.data.write.output import FileNames

FILE_BYTES = 400 * 10**6
"""Bytes of images per file; the Hub recommends at most about 500 MB."""
GROUP = 100
"""Rows per row group: reading one image reads its whole group."""
SPLITS = {"val": "validation"}
"""Names of splits on the Hub that differ from ours."""


def write_parquet(splits: Mapping[str, Any], out: str, category_ids: tuple[int, ...] | None) -> list[str]:
    """category_ids: of a detection set; None if the images have labels. Returns notes for the user.

    Raises UserError if pyarrow is missing.
    """
    parquet = parquet_module(out)
    schema = _schema(next(iter(splits.values())), category_ids)
    folder = os.path.join(out, "data")
    os.makedirs(folder)
    for split, images in splits.items():
        name = SPLITS.get(split, split)
        parts: list[str] = []
        for rows in _files(images, category_ids is not None):
            parts.append(os.path.join(folder, f"{name}-{len(parts):05d}.partial"))
            with parquet.ParquetWriter(parts[-1], schema) as writer:
                for group in rows:
                    writer.write_table(_table(group, schema))
        for k, part in enumerate(parts):
            os.replace(part, os.path.join(folder, f"{name}-{k:05d}-of-{len(parts):05d}.parquet"))
    return []


def _files(images: Any, boxes: bool) -> Iterator[Iterator[list[dict[str, Any]]]]:
    """Files of row groups of rows."""
    names, position = FileNames(images), 0

    def groups() -> Iterator[list[dict[str, Any]]]:
        nonlocal position
        used = 0
        while position < len(images) and used < FILE_BYTES:
            group = [_row(images, i, names, boxes) for i in range(position, min(position + GROUP, len(images)))]
            position += len(group)
            used += sum(len(row["image"]["bytes"]) for row in group)
            yield group

    while position < len(images):
        yield groups()


def _row(images: Any, i: int, names: FileNames, boxes: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"image": {"bytes": images.file(i)[1], "path": names.of(i)}}
    if boxes:
        height, width = _size(images, i)
        objects = _objects(images.annotation(i))
        return row | {"image_id": images.image_id(i), "width": width, "height": height, "objects": objects}
    if images.multilabel:
        return row | {"labels": np.flatnonzero(images.targets[i]).tolist()}
    return row | {"label": int(images.targets[i])}


def _size(images: Any, i: int) -> tuple[int, int]:
    sizes = getattr(images, "sizes", None)
    height, width = images.image(i).shape[:2] if sizes is None else sizes[i].tolist()
    return height, width


def _objects(truth: Annotation) -> dict[str, list[Any]]:
    corners = truth.boxes.astype(np.float64)
    sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    numbers = shortest(sides, lambda v: np.concatenate([v[:, :2], v[:, :2] + v[:, 2:]], axis=1), truth.boxes)
    return {
        "bbox": numbers.tolist(),
        "category": truth.labels.tolist(),
        "iscrowd": truth.crowd.tolist(),
        "area": truth.area.astype(np.float64).tolist(),
    }


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow

    return pyarrow.Table.from_pylist(rows, schema=schema)


def _schema(images: Any, category_ids: tuple[int, ...] | None) -> Any:
    """The columns, with Hugging Face's features in the metadata."""
    import pyarrow as pa

    named = {"names": list(images.classes), "_type": "ClassLabel"}
    columns: dict[str, Any] = {"image": pa.struct([("bytes", pa.binary()), ("path", pa.string())])}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if category_ids is not None:
        columns |= {"image_id": pa.int64(), "width": pa.int32(), "height": pa.int32()}
        features |= {name: {"dtype": str(columns[name]), "_type": "Value"} for name in ("image_id", "width", "height")}
        # 64 bits, so that a width, the difference of two corners, restores them exactly.
        columns["objects"] = pa.struct(
            [
                ("bbox", pa.list_(pa.list_(pa.float64(), 4))),
                ("category", pa.list_(pa.int64())),
                ("iscrowd", pa.list_(pa.bool_())),
                ("area", pa.list_(pa.float64())),
            ]
        )
        number = {"dtype": "float64", "_type": "Value"}
        features["objects"] = {
            "feature": {
                "bbox": {"feature": number, "length": 4, "_type": "Sequence"},
                "category": named,
                "iscrowd": {"dtype": "bool", "_type": "Value"},
                "area": number,
            },
            "_type": "Sequence",
        }
    elif images.multilabel:
        columns["labels"], features["labels"] = pa.list_(pa.int64()), {"feature": named, "_type": "Sequence"}
    else:
        columns["label"], features["label"] = pa.int64(), named
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    if category_ids is not None:
        metadata["category_ids"] = json.dumps(category_ids)
    return pa.schema(list(columns.items()), metadata=metadata)
