"""`vitral data check DATA`: find faults of a data set.

Exit codes: 0 no errors, 1 errors (with --strict: or warnings), 2 no such data.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from vit.commands.cli.fields import Positional
from vit.commands.cli.options import parse
from vit.data.check.findings import Findings
from vit.data.check.full import full_check
from vit.data.check.quick import quick_check
from vit.data.check.unlisted import unlisted_images
from vit.data.open import as_found
from vit.data.sets.boxset import Boxed
from vit.data.sets.data import Data, DetectionData
from vit.errors import UserError

SHOWN_CLASSES = 6
LISTS = ("coco", "csv", "jsonl")
"""Formats that list their images; in the others, the folders determine them."""


def main(arguments: Sequence[str]) -> int:
    return parse(Check, arguments, "vitral data check").run()


@dataclass(frozen=True)
class Check:
    """Find what is wrong with a data set. DATA is only read.

    The exit code is 1 if there are errors, or, with --strict, warnings; 2 if DATA does not exist."""

    data: Annotated[str, Positional("DATA")]
    """A data set, as `vitral train` takes it with --data."""
    json: bool = False
    """Print JSON instead of text."""
    strict: bool = False
    """Exit with 1 for warnings, too."""
    fast: bool = False
    """Do not decode images: check only names, annotations, classes and equal files."""
    format: str | None = None
    """Format of DATA, where the folder could be read in more than one format. Default: recognized from the files."""
    workers: int | None = None
    """Processes that decode images. Default: one per core."""

    def run(self) -> int:
        begun = time.monotonic()
        report, findings = check(self.data, format=self.format, fast=self.fast, workers=self.workers)
        report["seconds"] = round(time.monotonic() - begun, 1)
        if self.json:
            print(json.dumps(report, ensure_ascii=False, indent=1))
        else:
            show(report, findings)
        return int(bool(findings.of("error")) or (self.strict and bool(findings.of("warning"))))


def check(
    source: str, *, format: str | None = None, fast: bool = False, workers: int | None = None
) -> tuple[dict[str, Any], Findings]:
    """The contents of a data set, in plain values, and its findings.

    Raises UserError if the data does not exist.
    """
    findings = Findings()
    report: dict[str, Any] = {"source": source, "task": None, "splits": {}}
    try:
        data, splits = as_found(source, format, findings)
    except UserError as error:
        if not os.path.exists(os.path.expanduser(source)):
            raise
        findings.add("source-unreadable", source, str(error))
        splits = {}
    else:
        report |= _facts(data, splits)
        quick_check(splits, findings, most=None if fast else 0)
        if data.record.get("format") in LISTS:
            unlisted_images(splits, findings)
        if not fast:
            count = os.cpu_count() or 1 if workers is None else workers
            report["sizes"] = _sizes(full_check(splits, findings, workers=count, tick=_progress(splits)))
    report["findings"] = [found.to_dict() for found in findings]
    report |= {f"{kind}s": len(findings.of(kind)) for kind in ("error", "warning", "note")}
    return report, findings


def show(report: dict[str, Any], findings: Findings) -> None:
    """Print the contents, then the findings, errors first."""
    print(f"{report['source']}: {report['task'] or 'cannot be opened'}")
    width = max((len(split) for split in report["splits"]), default=0)
    for split, facts in report["splits"].items():
        boxes = f", {facts['boxes']:,} boxes, {facts['bare']:,} images without" if "boxes" in facts else ""
        print(f"  {split:<{width}}  {facts['images']:>9,} images{boxes}: {_classes_line(facts['classes'])}")
    if sizes := report.get("sizes"):
        print(
            "  sizes: median {}x{}, from {}x{} to {}x{}".format(*sizes["median"], *sizes["smallest"], *sizes["largest"])
        )
    for severity in ("error", "warning", "note"):
        for found in findings.of(severity):
            amount = f"{found.count:,} of {found.of:,}" if found.of else f"{found.count:,}"
            print(f"\n{severity.upper()} {found.id}: {found.kind.title}: {amount}, {found.where}")
            for name in found.names:
                print(f"    {name}")
            if found.count > len(found.names):
                print(f"    and {found.count - len(found.names):,} more")
            print(f"  {' '.join(filter(None, [found.detail, found.kind.remedy]))}")
    counts = ", ".join(f"{report[kind]} {kind}" for kind in ("errors", "warnings", "notes"))
    print(f"\n{counts} ({report['seconds']} s)" if list(findings) else f"Nothing is wrong ({report['seconds']} s).")


def _facts(data: Data | DetectionData, splits: dict[str, Any]) -> dict[str, Any]:
    task = "detection" if isinstance(data, DetectionData) else "classification"
    facts: dict[str, Any] = {"task": task, "format": data.record.get("format"), "splits": {}}
    if isinstance(data, DetectionData):
        facts["category_ids"] = dict(zip(data.classes, data.category_ids, strict=True))
    for split, images in splits.items():
        counts = dict(zip(images.classes, images.counts().tolist(), strict=True))
        facts["splits"][split] = {"images": len(images), "classes": counts}
        if isinstance(images, Boxed):
            bare = int((np.diff(images.ends, prepend=0) == 0).sum())
            crowd = int(images.rows.crowd.sum())
            facts["splits"][split] |= {"boxes": len(images.rows.labels), "bare": bare, "crowds": crowd}
    return facts


def _sizes(sizes: np.ndarray) -> dict[str, Any] | None:
    """Width and height of the median, the smallest and the largest image."""
    if not len(sizes):
        return None
    area = sizes.prod(axis=1)
    chosen = {"smallest": sizes[area.argmin()], "largest": sizes[area.argmax()], "median": np.median(sizes, axis=0)}
    return {name: [int(size[1]), int(size[0])] for name, size in chosen.items()}


def _classes_line(counts: dict[str, int]) -> str:
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    if len(ranked) <= SHOWN_CLASSES:
        return ", ".join(f"{name} {count:,}" for name, count in ranked)
    first, last = ranked[: SHOWN_CLASSES // 2], ranked[-SHOWN_CLASSES // 2 :]
    head, tail = (", ".join(f"{name} {count:,}" for name, count in part) for part in (first, last))
    return f"{len(ranked)} classes: {head}, ..., {tail}"


def _progress(splits: dict[str, Any]) -> Any:
    """A counter on the terminal, updated about twice a second."""
    total, last = sum(len(images) for images in splits.values()), 0.0
    shown = sys.stderr.isatty()

    def tick(done: int) -> None:
        nonlocal last
        if shown and (time.monotonic() - last > 0.5 or done == total):
            last = time.monotonic()
            print(
                f"\r{done:,} of {total:,} images" if done < total else "\r" + " " * 40 + "\r", end="", file=sys.stderr
            )

    return tick
