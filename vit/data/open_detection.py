"""What a detection data source is, and which reader takes it."""

from __future__ import annotations

import os
from typing import Any

from vit.data.boxes import torchvision as box_torchvision
from vit.data.boxes.draft import ALL, Drafts, settle
from vit.data.boxes.formats import FORMATS, recognised
from vit.data.bundled.scenes import load_scenes
from vit.data.check.findings import Findings
from vit.data.check.leakage import leakage_notes
from vit.data.labels.formats import is_shards
from vit.data.open import existing
from vit.data.sets.boxset import BoxFiles, DetectionData
from vit.data.sets.imageset import place_of
from vit.data.split import ALL_TEST, NO_TEST, RULE, hold_out
from vit.errors import UserError, shown


def open_detection(
    source: str,
    *,
    seed: int | None = 0,
    evaluation: bool = False,
    strict: bool = False,
    format: str | None = None,
    findings: Findings | None = None,
) -> DetectionData:
    """Open "scenes", or a folder or file in one of `vit.data.boxes.formats.FORMATS`, recognised from what lies there.

    seed: for the split of sources that have none of their own; None: nothing is held out for validation.
    evaluation: the source need not have train. strict: boxes that are not finite are an error.
    format: name of the reader, where the folder is ambiguous.
    findings: collects what is wrong; without it the first error is raised.

    Raises UserError for a source that does not exist, is empty, ambiguous or contradicts itself.
    """
    if source == "scenes":
        sets: dict[str, Any] = dict(load_scenes())
        ids = range(len(sets["train"].classes))
        rule = "scene i of a split is a function of (split, i)"
        return DetectionData.of(sets, source, category_ids=list(ids), notes=[], seed=seed, rule=rule, place=source)
    report = Findings(strict=["box-not-finite"] if strict else ()) if findings is None else findings
    source, format, drafts = _read(source, format, report)
    parts = [split for split in ("train", "val", "test", ALL) if split in drafts.parts]
    sets = {split: settle(drafts.parts[split], drafts.categories, report) for split in parts}
    if findings is None:
        report.raise_errors()
    sets = {split: images for split, images in sets.items() if len(images)}
    if not sets:
        raise UserError(f"{source}: no images that can be used. vitral data check {source} tells why.")
    rule, notes = drafts.rule, report.notes() if findings is None else []
    if list(sets) == [ALL]:
        rule = ALL_TEST if evaluation else rule
        sets = {"test" if evaluation else "train": sets[ALL]}
    if "train" not in sets and not evaluation:
        raise UserError(f"{source}: has annotations for {shown(list(sets))} but none for train.")
    if "train" in sets and "val" not in sets and seed is not None:
        rule, whole = f"{rule}; {RULE}", sets["train"]
        sets["train"], sets["val"], note = hold_out(whole, seed, source, whole.rarest())
        notes.append(note)
    if "test" not in sets:
        notes.append(NO_TEST)
    notes += [facts(split, images) for split, images in sets.items()]
    if findings is None:
        notes += leakage_notes(sets)
    return DetectionData.of(
        sets,
        source,
        category_ids=drafts.categories.ids,
        notes=notes,
        seed=seed,
        rule=rule,
        place=place_of(source),
        format=format,
    )


def _read(source: str, format: str | None, findings: Findings) -> tuple[str, str | None, Drafts]:
    """The source as it is read, the name of its format (None for torchvision's sets), and what it holds."""
    if source.startswith("torchvision:"):
        if not box_torchvision.names_boxes(source):
            names = shown([*box_torchvision.READERS])
            raise UserError(f"{source}: of torchvision's data sets these have boxes: {names}.")
        return source, None, box_torchvision.read(source, findings)
    source = os.path.expanduser(source)
    if not os.path.exists(source) and not is_shards(source):
        raise UserError(f"{source}: no such data (current folder: {os.getcwd()}).{existing(source)}")
    format = recognised(source, format)
    if os.path.isdir(source) and not FORMATS[format].look(source):
        raise UserError(f"{source}: holds nothing in the format {format}. Expected {FORMATS[format].expected}.")
    return source, format, FORMATS[format].read(source, findings)


def reopen_detection(
    record: dict[str, Any] | None, source: str | None = None, *, seed: int = 0, format: str | None = None
) -> DetectionData:
    """The data to evaluate a checkpoint on, as `datasets.reopen` gives it for classification."""
    place = source if source in (None, "scenes") else place_of(source)
    if place is not None and (record is None or place != record["source"]):
        return open_detection(place, seed=seed, evaluation=True, format=format)
    if record is None:
        raise UserError("the checkpoint does not say what it was trained on: name the data with --data.")
    data = open_detection(record["source"], seed=record["seed"], format=format or record.get("format"))
    changed = [name for name, was in record["splits"].items() if data.record["splits"].get(name) != was]
    if changed:
        data.notes.append(
            f"Warning: {record['source']} has changed since training (in {', '.join(changed)}): images of this split "
            "may have been trained on."
        )
    return data


def facts(split: str, images: BoxFiles) -> str:
    """One line: "train: 48 images, 8 without boxes; 90 boxes, 2 of them crowds"."""
    bare, crowd = int((images.targets == 0).sum()), int(images.rows.crowd.sum())
    line = f"{split}: {len(images):,} images" + (f", {bare:,} without boxes" if bare else "")
    return f"{line}; {len(images.rows.labels):,} boxes" + (f", {crowd:,} of them crowds" if crowd else "")
