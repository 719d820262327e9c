"""The formats of detection data, and which of them lie in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from vit.data.boxes.annotations import coco, coco_files, voc, voc_files, yolo, yolo_data
from vit.data.boxes.draft import Drafts
from vit.data.boxes.tables import csv as box_csv
from vit.data.boxes.tables import jsonl as box_jsonl
from vit.data.boxes.tables import parquet as box_parquet
from vit.data.boxes.tables import shards as box_shards
from vit.data.check.findings import Findings
from vit.errors import UserError, nearest


class Format(NamedTuple):
    """A reader."""

    look: Callable[[str], str]
    """What of this format a folder holds, or that a file is one, for a message; "" for nothing."""
    read: Callable[[str, Findings], Drafts]
    expected: str
    suffixes: tuple[str, ...]
    """Of a file that is given in place of a folder."""


FORMATS = {
    "coco": Format(coco.look, coco.read, coco_files.EXPECTED, (".json",)),
    "yolo": Format(yolo.look, yolo.read, yolo_data.EXPECTED, yolo_data.SUFFIXES),
    "voc": Format(voc.look, voc.read, voc_files.EXPECTED, ()),
    "csv": Format(box_csv.look, box_csv.read, box_csv.EXPECTED, box_csv.SUFFIXES),
    "parquet": Format(box_parquet.look, box_parquet.read, box_parquet.EXPECTED, (box_parquet.SUFFIX,)),
    "shards": Format(box_shards.look, box_shards.read, box_shards.EXPECTED, (box_shards.SUFFIX,)),
    "jsonl": Format(box_jsonl.look, box_jsonl.read, box_jsonl.EXPECTED, (box_jsonl.SUFFIX,)),
}


def seen(source: str) -> dict[str, str]:
    """{format: what of it lies in a folder} of every format that does. A file may be in the format of its suffix."""
    if not os.path.isdir(source):
        names = [name for name in by_suffix(source) if FORMATS[name].look(source)]
        return {name: os.path.basename(source) for name in names}
    found = {name: kind.look(source) for name, kind in FORMATS.items()}
    return {name: what for name, what in found.items() if what}


def by_suffix(file: str) -> list[str]:
    """The format that the suffix of a file says, if one does."""
    suffix = os.path.splitext(file)[1].lower()
    return [name for name, kind in FORMATS.items() if suffix in kind.suffixes]


def recognised(source: str, format: str | None = None) -> str:
    """The name of the format to read. format: what the user says, which decides.

    Raises UserError where nothing is recognised, or more than one.
    """
    if format is not None:
        if format not in FORMATS:
            raise UserError(f"there is no format {format!r}.{nearest(format, FORMATS)} Formats: {', '.join(FORMATS)}.")
        return format
    # A single file is meant to be what its suffix says; its reader tells what is wrong with it.
    found = seen(source) if os.path.isdir(source) else dict.fromkeys(by_suffix(source))
    if len(found) == 1:
        return next(iter(found))
    if found:
        listed = "; ".join(f"{name} ({what})" for name, what in found.items())
        raise UserError(
            f"{source}: holds annotations in {len(found)} formats: {listed}. Say which is meant: --format "
            f"{' or '.join(found)}."
        )
    expected = "; ".join(f"{name}: {kind.expected}" for name, kind in FORMATS.items())
    raise UserError(f"{source}: no annotations of boxes were found. Expected is one of these. {expected}.")
