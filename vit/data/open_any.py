"""Images of either task: what lies there decides whether they have labels or boxes."""

from __future__ import annotations

import os
from typing import Any

from vit.data.boxes import formats as box_formats
from vit.data.boxes.torchvision import names_boxes
from vit.data.check.findings import Findings
from vit.data.labels.formats import is_shards
from vit.data.open import open_data
from vit.data.open_detection import open_detection
from vit.data.sets.boxset import DetectionData
from vit.data.sets.imageset import Data
from vit.data.split import ALL_TEST

SHARED = ("parquet", "shards")
"""Formats that hold labels or boxes."""


def has_boxes(source: str, format: str | None = None) -> bool:
    """Whether a source is detection data. format: as the user says."""
    if source == "scenes":
        return True
    if source.startswith("torchvision:"):
        return names_boxes(source)
    path = os.path.expanduser(source)
    if format is not None and format not in SHARED:
        return format in box_formats.FORMATS
    found = box_formats.seen(path) if os.path.exists(path) or is_shards(path) else {}
    return bool(found) if format is None else format in found


def open_any(
    source: str,
    *,
    format: str | None = None,
    seed: int | None = 0,
    evaluation: bool = False,
    findings: Findings | None = None,
) -> Data | DetectionData:
    """As `open_detection` or `open_data`, whichever reads the source."""
    if has_boxes(source, format):
        return open_detection(source, seed=seed, evaluation=evaluation, format=format, findings=findings)
    return open_data(source, seed=seed, evaluation=evaluation, format=format, findings=findings)


def as_found(
    source: str, format: str | None = None, findings: Findings | None = None
) -> tuple[Data | DetectionData, dict[str, Any]]:
    """The data with the splits that the source has: nothing is held out, and what nothing divides is train."""
    data = open_any(source, format=format, seed=None, evaluation=True, findings=findings)
    splits = data.splits()
    return data, {"train": splits["test"]} if data.record["rule"] == ALL_TEST else splits
