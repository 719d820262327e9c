"""Opens a data source with the reader of its format: the one entry for images with labels and images with boxes."""

from __future__ import annotations

import os
from typing import Any, Literal, TypedDict, Unpack, overload

from vit.data.boxes import torchvision as box_torchvision
from vit.data.boxes.drafts import open_drafts
from vit.data.bundled.digits import load_digits
from vit.data.bundled.scenes import load_scenes
from vit.data.check.findings import Findings
from vit.data.check.leakage import leakage_notes
from vit.data.formats import kinds_of, named, recognized, seen
from vit.data.labels.evidence import is_shards
from vit.data.labels.manifest_files import SUFFIXES
from vit.data.labels.parquet import open_parquet
from vit.data.labels.torchvision import open_torchvision
from vit.data.request import Request
from vit.data.sets.data import BUNDLED, Data, DetectionData, Kind, place_of
from vit.data.source import column_of, existing, kind_of, meant
from vit.data.split import ALL_TEST
from vit.data.store.hub import fetch_data
from vit.errors import UserError, shown

Record = dict[str, Any]
"""`Data.record`: plain values."""


class Options(TypedDict, total=False):
    """Options of `open_data`."""

    seed: int | None
    evaluation: bool
    format: str | None
    findings: Findings | None


class Reopened(TypedDict, total=False):
    """Options of `reopen`."""

    seed: int
    format: str | None


@overload
def open_data(source: str, *, kind: Literal["labels"], **options: Unpack[Options]) -> Data: ...
@overload
def open_data(source: str, *, kind: Literal["boxes"], **options: Unpack[Options]) -> DetectionData: ...
@overload
def open_data(source: str, *, kind: Kind | None = None, **options: Unpack[Options]) -> Data | DetectionData: ...
def open_data(
    source: str,
    *,
    kind: Kind | None = None,
    seed: int | None = 0,
    evaluation: bool = False,
    format: str | None = None,
    findings: Findings | None = None,
) -> Data | DetectionData:
    """Open a named set (`vitral data list`), a folder or file in a format of `vit.data.formats.TABLE`, `hf:OWNER/NAME`
    or `torchvision:NAME`.

    kind: labels or boxes; recognized from the source if None.
    seed: of the validation split, if the source has none; None holds nothing out.
    evaluation: train may be missing, and a source without splits is all test.
    format: the name of a format; recognized from the source if None.
    findings: collects faults; without it the first error is raised.

    Raises UserError for a source that does not exist, is empty, contradicts itself or matches several formats.
    """
    source, kind, notes = meant(source, kind)
    if format is not None:
        kinds = kinds_of(format)
        if kind is not None and kind not in kinds:
            raise UserError(f"--format {format} is for images with {kinds.pop()}; for {kind} {shown([*named(kind)])}.")
    kind = kind or ("boxes" if has_boxes(source, format) else "labels")
    if source in BUNDLED and kind == BUNDLED[source]:
        return _bundled(source, seed)
    path, column = column_of(source) if kind == "labels" else (source, None)
    request = Request(source, os.path.expanduser(path), column, seed, evaluation, findings)
    if source.startswith("torchvision:"):
        data = _torchvision(request, kind)
    elif source.startswith("hf:") and kind == "labels":
        data = _hub(request)
    else:
        data = _local(request, kind, format)
    data.notes[:0] = notes
    if findings is None:
        data.notes += leakage_notes(data.splits())
    return data


def _bundled(name: str, seed: int | None) -> Data | DetectionData:
    if name == "digits":
        return Data.of(load_digits(), name, notes=[], seed=seed, rule="stored with the digits, whatever the seed")
    sets = load_scenes()
    ids, rule = range(len(sets["train"].classes)), "scene i of a split is a function of (split, i)"
    return DetectionData.of(sets, name, category_ids=ids, notes=[], seed=seed, rule=rule)


def _torchvision(request: Request, kind: Kind) -> Data | DetectionData:
    if kind == "labels":
        return open_torchvision(request.source, seed=request.seed, evaluation=request.evaluation)
    if not box_torchvision.names_boxes(request.source):
        names = shown([*box_torchvision.READERS])
        raise UserError(f"{request.source}: of torchvision's data sets these have boxes: {names}.")
    return open_drafts(request, box_torchvision.read)


def _hub(request: Request) -> Data:
    root, notes = fetch_data(request.path)
    data = open_parquet(request.source, root, column=request.column, seed=request.seed, evaluation=request.evaluation)
    data.notes[:0] = notes
    return data


def _local(request: Request, kind: Kind, format: str | None) -> Data | DetectionData:
    """A folder, a file or a pattern of shards."""
    path, formats = request.path, named(kind)
    if not os.path.exists(path) and not is_shards(path) and (kind, format) != ("labels", "shards"):
        raise UserError(f"{path}: no such data (current folder: {os.getcwd()}).{existing(path)}")
    found = formats[format] if format is not None else recognized(path, kind)
    if kind == "boxes":
        if found is None:
            expected = "; ".join(f"{name}: {row.expected}" for name, row in formats.items())
            raise UserError(f"{path}: no annotations of boxes were found. Expected is one of these. {expected}.")
        if os.path.isdir(path) and not found.look(path, {}):
            raise UserError(f"{path}: holds nothing in the format {found.name}. Expected {found.expected}.")
    elif os.path.isfile(path) and (found is None or found.name == "folder"):
        raise UserError(f"{path}: is neither a folder nor a .csv manifest. {_remedy(path)}")
    # An empty folder goes to the reader of class folders, which reports what it expected.
    found = found or formats["folder"]
    if request.column is not None and found.name != "parquet":
        raise UserError(
            f"{request.source}: a column after # is for Parquet files with images; {path} holds {found.expected}."
        )
    data = found.read(request)
    if kind == "boxes" or format is not None:
        data.record["format"] = found.name
    return data


def has_boxes(source: str, format: str | None = None) -> bool:
    """Whether a source holds images with boxes. format: as the user gave it."""
    if (kind := kind_of(source)) is not None:
        return kind == "boxes"
    if source.startswith("torchvision:"):
        return box_torchvision.names_boxes(source)
    path = os.path.expanduser(source)
    if format is not None and len(kinds := kinds_of(format)) == 1:
        return kinds == {"boxes"}
    found = seen(path, "boxes") if os.path.exists(path) or is_shards(path) else {}
    return bool(found) if format is None else format in found


def as_found(
    source: str, format: str | None = None, findings: Findings | None = None
) -> tuple[Data | DetectionData, dict[str, Any]]:
    """The data with the splits of the source: nothing is held out, and data without splits is all train."""
    data = open_data(source, format=format, seed=None, evaluation=True, findings=findings)
    splits = data.splits()
    return data, {"train": splits["test"]} if data.record["rule"] == ALL_TEST else splits


@overload
def reopen(
    record: Record | None, source: str | None = None, *, kind: Literal["labels"], **options: Unpack[Reopened]
) -> Data: ...
@overload
def reopen(
    record: Record | None, source: str | None = None, *, kind: Literal["boxes"], **options: Unpack[Reopened]
) -> DetectionData: ...
@overload
def reopen(
    record: Record | None, source: str | None = None, *, kind: Kind | None = None, **options: Unpack[Reopened]
) -> Data | DetectionData: ...
def reopen(
    record: Record | None,
    source: str | None = None,
    *,
    kind: Kind | None = None,
    seed: int = 0,
    format: str | None = None,
) -> Data | DetectionData:
    """The data to evaluate a checkpoint on: the splits of its training run, or another source.

    record: `Data.record` from the checkpoint, None if it has none. If `source` is None or names the same place, the
    splits are those of training, so that no training image is evaluated as test; a note warns if files were added or
    removed. Any other source is opened for evaluation. format: as for `open_data`; the record's if None.
    """
    if source is not None and (record is None or place_of(meant(source, kind)[0]) != record["source"]):
        return open_data(source, kind=kind, seed=seed, evaluation=True, format=format)
    if record is None:
        raise UserError("The checkpoint does not say what it was trained on: name the data with --data.")
    data = open_data(record["source"], kind=kind, seed=record["seed"], format=format or record.get("format"))
    changed = [name for name, was in record["splits"].items() if data.record["splits"].get(name) != was]
    if changed:
        data.notes.append(
            f"Warning: {record['source']} has changed since training (in {', '.join(changed)}): "
            "images of this split may have been trained on."
        )
    return data


def _remedy(path: str) -> str:
    if path.lower().endswith((".zip", ".gz", ".tgz", ".7z", ".rar")):
        return "Unpack the archive and give the folder."
    if path.lower().endswith((".yaml", ".yml", ".json")):
        return "Annotation files of detection are not read here; give the folder with class folders."
    return (
        "Give a folder with one folder per class, a manifest with the columns path,label "
        f"({', '.join(SUFFIXES)}), or .tar shards."
    )
