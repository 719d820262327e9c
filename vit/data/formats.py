"""The formats of data on disk, as one table for labels and boxes, and how a format is recognized."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import NamedTuple

from vit.data.boxes.annotations import coco, coco_files, voc, voc_files, yolo, yolo_data
from vit.data.boxes.drafts import open_drafts
from vit.data.boxes.tables import csv, jsonl
from vit.data.boxes.tables import parquet as box_parquet
from vit.data.boxes.tables import shards as box_shards
from vit.data.labels.evidence import evidence, format_of_file, manifests
from vit.data.labels.folder import open_folder
from vit.data.labels.manifest import open_manifest
from vit.data.labels.parquet import open_parquet
from vit.data.labels.shards import open_shards
from vit.data.request import Request
from vit.data.sets.data import Data, DetectionData, Kind
from vit.errors import UserError, nearest, shown

Evidence = Mapping[str, list[str]]
"""What `vit.data.labels.evidence.evidence` finds in a folder."""


class Format(NamedTuple):
    """One way to store images with labels or boxes on disk."""

    name: str
    kind: Kind
    expected: str
    """What a folder must contain, for messages."""
    look: Callable[[str, Evidence], str]
    """Describes, for a message, what a folder or file contains in this format; "" for nothing."""
    read: Callable[[Request], Data | DetectionData]
    suffixes: tuple[str, ...] = ()
    """Suffixes of a file with boxes that may be given in place of a folder."""


def _folder(request: Request) -> Data:
    return open_folder(request.path, seed=request.seed, evaluation=request.evaluation, findings=request.findings)


def _manifest(request: Request) -> Data:
    files = manifests(request.path) if os.path.isdir(request.path) else None
    return open_manifest(request.path, files, seed=request.seed, evaluation=request.evaluation)


def _parquet(request: Request) -> Data:
    return open_parquet(
        os.path.expanduser(request.source),
        request.path,
        column=request.column,
        seed=request.seed,
        evaluation=request.evaluation,
    )


def _shards(request: Request) -> Data:
    return open_shards(request.path, seed=request.seed, evaluation=request.evaluation)


def _labels(name: str, expected: str, read: Callable[[Request], Data]) -> Format:
    return Format(name, "labels", expected, lambda _, lying: shown(lying.get(name, ()), 5), read)


def _boxes(name: str, reader: ModuleType, expected: str, *suffixes: str) -> Format:
    """reader: a module with `look` and `read`."""
    return Format(
        name, "boxes", expected, lambda source, _: reader.look(source), partial(open_drafts, read=reader.read), suffixes
    )


MANIFEST = "a manifest (.csv, .tsv, .jsonl or .parquet with the columns path and label or labels)"
TABLE = (
    _labels("manifest", MANIFEST, _manifest),
    _labels("parquet", "Parquet files with the images in them", _parquet),
    _labels("shards", "tar shards", _shards),
    _labels("folder", "class folders", _folder),
    _boxes("coco", coco, coco_files.EXPECTED, ".json"),
    _boxes("yolo", yolo, yolo_data.EXPECTED, *yolo_data.SUFFIXES),
    _boxes("voc", voc, voc_files.EXPECTED),
    _boxes("csv", csv, csv.EXPECTED, *csv.SUFFIXES),
    _boxes("parquet", box_parquet, box_parquet.EXPECTED, box_parquet.SUFFIX),
    _boxes("shards", box_shards, box_shards.EXPECTED, box_shards.SUFFIX),
    _boxes("jsonl", jsonl, jsonl.EXPECTED, jsonl.SUFFIX),
)


def named(kind: Kind) -> dict[str, Format]:
    """The formats of one kind by name."""
    return {row.name: row for row in TABLE if row.kind == kind}


def kinds_of(name: str) -> set[Kind]:
    """The kinds that a format can hold. Raises UserError for an unknown format."""
    kinds: set[Kind] = {row.kind for row in TABLE if row.name == name}
    if not kinds:
        names = list(dict.fromkeys(row.name for row in TABLE))
        raise UserError(f"There is no format {name!r}.{nearest(name, names)} There are {', '.join(names)}.")
    return kinds


def seen(source: str, kind: Kind) -> dict[str, str]:
    """{format: what a folder contains in it}. For a file, the formats that its suffix allows."""
    if os.path.isdir(source):
        lying = evidence(source) if kind == "labels" else {}
        found = {name: row.look(source, lying) for name, row in named(kind).items()}
    elif kind == "labels":
        found = {format_of_file(source) or "": os.path.basename(source)}
        found.pop("", None)
    else:
        found = {row.name: row.look(source, {}) and os.path.basename(source) for row in by_suffix(source)}
    return {name: what for name, what in found.items() if what}


def by_suffix(file: str) -> list[Format]:
    """The box formats that use the suffix of a file."""
    suffix = os.path.splitext(file)[1].lower()
    return [row for row in TABLE if suffix in row.suffixes]


def recognized(source: str, kind: Kind) -> Format | None:
    """The format of a folder or file; None if none matches.

    Raises UserError, which lists what was seen, if several match.
    """
    # The suffix decides the format of a single file with boxes; its reader reports what is wrong with it.
    single = kind == "boxes" and not os.path.isdir(source)
    found = {row.name: "" for row in by_suffix(source)} if single else seen(source, kind)
    if len(found) > 1:
        lines = [f"  {name}: {what}" for name, what in found.items()]
        raise UserError(
            "\n".join([f"{source}: could be in {len(found)} formats. Seen were", *lines])
            + f"\nSay which: --format {' or --format '.join(found)}."
        )
    return named(kind)[next(iter(found))] if found else None
