"""What a data source is, and which reader takes it."""

from __future__ import annotations

import os
from typing import Any

from datasets.digits import load_digits
from datasets.folder import open_folder
from datasets.imageset import Data
from datasets.leakage import leakage_notes
from datasets.manifest import open_manifest
from vit.errors import UserError, nearest


def open_data(source: str, *, seed: int = 0, evaluation: bool = False) -> Data:
    """Open "digits", a folder of class folders or a .csv manifest.

    seed: for the split of sources that have none of their own.
    evaluation: the source need not have train, and what is not split is all test (train is then empty).

    Raises UserError for a source that does not exist, is empty or contradicts itself.
    """
    if source == "digits":
        return Data.of(load_digits(), source, notes=[], seed=seed, rule="stored with the digits, whatever the seed")
    source = os.path.expanduser(source)
    if os.path.isdir(source):
        data = open_folder(source, seed=seed, evaluation=evaluation)
    elif source.lower().endswith(".csv") and os.path.isfile(source):
        data = open_manifest(source, seed=seed, evaluation=evaluation)
    elif os.path.exists(source):
        raise UserError(f"{source}: is neither a folder nor a .csv manifest. {_remedy(source)}")
    else:
        raise UserError(f"{source}: no such data (current folder: {os.getcwd()}).{existing(source)}")
    data.notes += leakage_notes(data.splits())
    return data


def reopen(record: dict[str, Any] | None, source: str | None = None, *, seed: int = 0) -> Data:
    """The data to evaluate a checkpoint on: with the splits of its training run, or another source.

    record: `Data.record` as the checkpoint keeps it, None where it keeps none. When `source` is None or names the same
    place, the splits are those of training, so that no training image is evaluated as test; a note says when files
    have come or gone. Any other source is opened for evaluation.
    """
    if source is not None and (record is None or _place(source) != record["source"]):
        return open_data(source, seed=seed, evaluation=True)
    if record is None:
        raise UserError("the checkpoint does not say what it was trained on: name the data with --data.")
    data = open_data(record["source"], seed=record["seed"])
    changed = [name for name, was in record["splits"].items() if data.record["splits"].get(name) != was]
    if changed:
        data.notes.append(
            f"Warning: {record['source']} has changed since training (in {', '.join(changed)}): "
            "images of this split may have been trained on."
        )
    return data


def _place(source: str) -> str:
    return source if source == "digits" else os.path.abspath(os.path.expanduser(source))


def _remedy(source: str) -> str:
    if source.lower().endswith((".zip", ".tar", ".gz", ".tgz", ".7z")):
        return "Unpack the archive and give the folder."
    if source.lower().endswith((".yaml", ".yml", ".json")):
        return "Annotation files of detection are not read here; give the folder with class folders."
    return "Give a folder with one folder per class, or a manifest with the columns path,label."


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
