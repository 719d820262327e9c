"""What a detection data source is, and which reader takes it."""

from __future__ import annotations

import os
import re
from typing import Any

from datasets.box_shards import open_box_shards, shards_have_boxes
from datasets.boxset import DetectionData, by_first_label
from datasets.coco import read_coco
from datasets.formats import is_shards
from datasets.leakage import leakage_notes
from datasets.open import existing
from datasets.scenes import load_scenes
from datasets.split import NO_TEST, RULE, hold_out
from vit.errors import UserError, shown

BESIDE = "_annotations.coco.json"
SPLITS = {"train": "train", "valid": "val", "val": "val", "validation": "val", "test": "test"}


def open_detection(source: str, *, seed: int = 0, evaluation: bool = False, strict: bool = False) -> DetectionData:
    """Open "scenes", a folder with COCO annotations or one COCO .json file.

    Folders: DIR/{train,valid,test}/_annotations.coco.json with the images beside it, or DIR/annotations/*.json whose
    names hold train, val or test, with the images in DIR/{train2017,...}, DIR/images/... or DIR.
    seed: for the split of sources that have none of their own. evaluation: the source need not have train.
    strict: boxes that are not finite are an error.

    Raises UserError for a source that does not exist, is empty or contradicts itself.
    """
    if source == "scenes":
        sets = load_scenes()
        ids = range(len(sets["train"].classes))
        rule = "scene i of a split is a function of (split, i)"
        return DetectionData.of(sets, source, category_ids=list(ids), notes=[], seed=seed, rule=rule, place=source)
    source = os.path.expanduser(source)
    if is_shards(source):
        return open_box_shards(source, seed=seed, evaluation=evaluation, strict=strict)
    if not os.path.exists(source):
        raise UserError(f"{source}: no such data (current folder: {os.getcwd()}).{existing(source)}")
    files = _files(source)
    if not files:
        raise UserError(
            f"{source}: no COCO annotations. Expected {os.path.join(source, 'train', BESIDE)}, or "
            f"{os.path.join(source, 'annotations', 'instances_train.json')}, or a .json file."
        )
    sets: dict[str, Any] = {}
    notes: list[str] = []
    categories: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {}
    for split, (file, roots) in files.items():
        sets[split], ids, told = read_coco(file, roots, strict=strict)
        categories[file] = (sets[split].classes, ids)
        notes += told
    _require_same_categories(categories)
    ids = next(iter(categories.values()))[1]
    rule = "as found in " + ", ".join(file for file, _ in files.values())
    if list(sets) == ["all"]:
        sets = {"test" if evaluation else "train": sets["all"]}
    if "train" not in sets and not evaluation:
        raise UserError(f"{source}: has annotations for {shown(list(sets))} but none for train.")
    if "train" in sets and "val" not in sets:
        rule, whole = f"{rule}; {RULE}", sets["train"]
        sets["train"], sets["val"], note = hold_out(by_first_label(whole), seed, whole.root)
        notes.append(note)
    if "test" not in sets:
        notes.append(NO_TEST)
    notes += leakage_notes(sets)
    return DetectionData.of(
        sets, source, category_ids=ids, notes=notes, seed=seed, rule=rule, place=os.path.abspath(source)
    )


def reopen_detection(record: dict[str, Any] | None, source: str | None = None, *, seed: int = 0) -> DetectionData:
    """The data to evaluate a checkpoint on, as `datasets.reopen` gives it for classification."""
    place = source if source in (None, "scenes") else os.path.abspath(os.path.expanduser(source))
    if place is not None and (record is None or place != record["source"]):
        return open_detection(place, seed=seed, evaluation=True)
    if record is None:
        raise UserError("the checkpoint does not say what it was trained on: name the data with --data.")
    data = open_detection(record["source"], seed=record["seed"])
    changed = [name for name, was in record["splits"].items() if data.record["splits"].get(name) != was]
    if changed:
        data.notes.append(
            f"Warning: {record['source']} has changed since training (in {', '.join(changed)}): images of this split "
            "may have been trained on."
        )
    return data


def has_boxes(source: str) -> bool:
    """Whether `open_detection` would find annotations there."""
    if source == "scenes" or (is_shards(source) and shards_have_boxes(source)):
        return True
    return (os.path.isdir(source) and bool(_files(source))) or source.endswith(".json")


def _files(source: str) -> dict[str, tuple[str, list[str]]]:
    """{split: (annotation file, folders to look for its images in)}; "all" where nothing says which split it is."""
    if os.path.isfile(source):
        folder = os.path.dirname(os.path.abspath(source))
        return {"all": (source, [folder, os.path.join(folder, "images"), os.path.dirname(folder)])}
    found: dict[str, tuple[str, list[str]]] = {}
    for name, split in SPLITS.items():
        file = os.path.join(source, name, BESIDE)
        if os.path.isfile(file):
            if split in found:
                raise UserError(f"{source}: both {found[split][0]} and {file} would be {split}. Remove one.")
            found[split] = (file, [os.path.dirname(file)])
    alone = os.path.join(source, BESIDE)
    if not found and os.path.isfile(alone):
        return {"all": (alone, [source])}
    folder = os.path.join(source, "annotations")
    if found or not os.path.isdir(folder):
        return found
    for name in sorted(os.listdir(folder)):
        match = re.search(r"(train|valid|validation|val|test)(\d*)", name.lower())
        # Keypoints and captions of COCO lie beside the boxes.
        if not name.endswith(".json") or not match or re.match(r"(captions|person_keypoints|image_info)", name):
            continue
        split, file = SPLITS[match[1]], os.path.join(folder, name)
        if split in found:
            raise UserError(f"{source}: both {found[split][0]} and {file} would be {split}. Remove one.")
        parts = [match[0], match[1]]
        roots = [os.path.join(source, *middle, part) for part in parts for middle in ((), ("images",))]
        found[split] = (file, [*roots, os.path.join(source, "images"), source])
    return found


def _require_same_categories(found: dict[str, tuple[tuple[str, ...], tuple[int, ...]]]) -> None:
    (first, wanted), *others = found.items()
    for file, categories in others:
        if categories != wanted:
            ours, theirs = (set(zip(*reversed(c), strict=True)) for c in (wanted, categories))
            one, other = (shown(sorted(rest)) or "none" for rest in (ours - theirs, theirs - ours))
            raise UserError(
                f"the categories of {first} and {file} differ: only in the first {one}, only in the second {other}."
            )
