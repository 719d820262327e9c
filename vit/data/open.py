"""What a data source is, and which reader takes it."""

from __future__ import annotations

import os
from typing import Any

from vit.data.bundled.digits import load_digits
from vit.data.check.findings import Findings
from vit.data.check.leakage import leakage_notes
from vit.data.labels.folder import open_folder
from vit.data.labels.formats import FORMATS, format_of_file, is_shards, manifests, recognise, require_format
from vit.data.labels.manifest import open_manifest
from vit.data.labels.manifest_files import SUFFIXES
from vit.data.labels.parquet import open_parquet
from vit.data.labels.shards import open_shards
from vit.data.labels.torchvision import open_torchvision
from vit.data.sets.imageset import Data, place_of
from vit.data.store.hub import fetch_data
from vit.errors import UserError, nearest


def open_data(
    source: str,
    *,
    seed: int | None = 0,
    evaluation: bool = False,
    format: str | None = None,
    findings: Findings | None = None,
) -> Data:
    """Open "digits", a folder or a file in one of FORMATS, `hf:OWNER/NAME` or `torchvision:NAME`.

    seed: for the split of sources that have none of their own; None: nothing is held out for validation.
    evaluation: the source need not have train, and what is not split is all test (train is then empty).
    format: a name of FORMATS; recognised from what lies in the folder if None.
    findings: collects what is wrong with class folders; without it the first error is raised.

    Raises UserError for a source that does not exist, is empty or contradicts itself, or could be in several formats.
    """
    if source == "digits":
        return Data.of(load_digits(), source, notes=[], seed=seed, rule="stored with the digits, whatever the seed")
    if format is not None:
        require_format(format)
    data = _read(source, format, {"seed": seed, "evaluation": evaluation}, findings)
    if format is not None:
        data.record["format"] = format
    if findings is None:
        data.notes += leakage_notes(data.splits())
    return data


def _read(source: str, format: str | None, options: dict[str, Any], findings: Findings | None) -> Data:
    if source.startswith("torchvision:"):
        return open_torchvision(source, **options)
    path, column = _column(source)
    if source.startswith("hf:"):
        root, notes = fetch_data(path)
        data = open_parquet(source, root, column=column, **options)
        data.notes[:0] = notes
        return data
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        format = format or recognise(path)
    elif os.path.isfile(path):
        format = format or format_of_file(path)
        if format in (None, "folder"):
            raise UserError(f"{source}: is neither a folder nor a .csv manifest. {_remedy(source)}")
    elif format == "shards" or is_shards(path):
        format = "shards"
    else:
        raise UserError(f"{source}: no such data (current folder: {os.getcwd()}).{existing(source)}")
    if column is not None and format != "parquet":
        raise UserError(f"{source}: a column after # is for Parquet files with images; {path} holds {FORMATS[format]}.")
    if format == "folder":
        return open_folder(path, findings=findings, **options)
    if format == "manifest":
        return open_manifest(path, manifests(path) if os.path.isdir(path) else None, **options)
    if format == "parquet":
        return open_parquet(os.path.expanduser(source), path, column=column, **options)
    return open_shards(path, **options)


def _column(source: str) -> tuple[str, str | None]:
    """PATH#COLUMN says which column holds the labels; a # in the name of an existing file is part of it."""
    path, sign, column = source.rpartition("#")
    return (path, column) if sign and not os.path.exists(os.path.expanduser(source)) else (source, None)


def reopen(
    record: dict[str, Any] | None, source: str | None = None, *, seed: int = 0, format: str | None = None
) -> Data:
    """The data to evaluate a checkpoint on: with the splits of its training run, or another source.

    record: `Data.record` as the checkpoint keeps it, None where it keeps none. When `source` is None or names the same
    place, the splits are those of training, so that no training image is evaluated as test; a note says when files
    have come or gone. Any other source is opened for evaluation. format: as for `open_data`; the record's if None.
    """
    if source is not None and (record is None or place_of(source) != record["source"]):
        return open_data(source, seed=seed, evaluation=True, format=format)
    if record is None:
        raise UserError("the checkpoint does not say what it was trained on: name the data with --data.")
    data = open_data(record["source"], seed=record["seed"], format=format or record.get("format"))
    changed = [name for name, was in record["splits"].items() if data.record["splits"].get(name) != was]
    if changed:
        data.notes.append(
            f"Warning: {record['source']} has changed since training (in {', '.join(changed)}): "
            "images of this split may have been trained on."
        )
    return data


def _remedy(source: str) -> str:
    if source.lower().endswith((".zip", ".gz", ".tgz", ".7z", ".rar")):
        return "Unpack the archive and give the folder."
    if source.lower().endswith((".yaml", ".yml", ".json")):
        return "Annotation files of detection are not read here; give the folder with class folders."
    return (
        "Give a folder with one folder per class, a manifest with the columns path,label "
        f"({', '.join(SUFFIXES)}), or .tar shards."
    )


def existing(source: str) -> str:
    """The nearest match on disk: the first missing part of the path against what lies beside it."""
    parent, part = os.path.abspath(source), ""
    while not os.path.isdir(parent):
        parent, part = os.path.split(parent)
    try:
        beside = [entry.name for entry in os.scandir(parent)]
    except OSError:
        beside = []
    shown_parent = parent if os.path.isabs(source) else os.path.relpath(parent)
    options = [os.path.normpath(os.path.join(shown_parent, name)) for name in beside]
    if os.sep not in source:
        options.append("digits")
    return nearest(os.path.normpath(os.path.join(shown_parent, part)), options)
