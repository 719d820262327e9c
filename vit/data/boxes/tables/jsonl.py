"""Read a manifest of boxes, one image per line, into a Draft.

    {"image": "a.jpg", "boxes": [[xmin, ymin, xmax, ymax], ...], "labels": ["cat", ...]}
    {"file_name": "a.jpg", "objects": {"bbox": [[x, y, width, height], ...], "category": [0, ...]}}

The second form is metadata.jsonl of Hugging Face's image folders. Coordinates are pixels. Optional keys: `split`,
`crowd` (a list), and the image's `width` and `height`. Images are searched for next to the manifest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from vit.data.boxes.draft import ALL, UNTOLD, Draft, Drafts, likeliest
from vit.data.boxes.named_classes import named_classes
from vit.data.boxes.tables.objects import Thing, key_of, things
from vit.data.check.findings import Findings
from vit.data.split_names import SPLIT_NAMES
from vit.errors import UserError, shown

FORM = "xmin, ymin, xmax, ymax in pixels"
EXPECTED = "metadata.jsonl with file_name and objects, or a .jsonl with image, boxes and labels"
SUFFIX = ".jsonl"
IMAGE = ("image", "path", "file_name", "filename")
DETAIL = 'A line holds {"image": ..., "boxes": [[xmin, ymin, xmax, ymax], ...], "labels": [...]}.'


def look(source: str) -> str:
    """The manifests of boxes in a folder, for a message; "" if there are none."""
    if os.path.isfile(source):
        return source if _has_boxes(source) else ""
    return ", ".join(os.path.relpath(file, source) for file in find(source).values())


def read(source: str, findings: Findings) -> Drafts:
    """Read a manifest, or a folder: DIR/{train,val,test}.jsonl, DIR/{train,...}/metadata.jsonl or DIR/NAME.jsonl.

    Raises UserError for a file that is not JSON lines.
    """
    files = find(source)
    if not files:
        raise UserError(f"{source}: no manifest of boxes. Expected {EXPECTED}.")
    parts: dict[str, Draft] = {}
    for split, file in files.items():
        _read_manifest(file, split, parts, findings)
    return Drafts(parts, named_classes(parts, source, findings), "as found in " + ", ".join(files.values()))


def find(source: str) -> dict[str, str]:
    """Return {split: manifest}. Raises UserError if two map to the same split."""
    if os.path.isfile(source):
        return {ALL: source}
    if not os.path.isdir(source):
        return {}
    names = [name for name in sorted(os.listdir(source)) if name.lower().endswith(SUFFIX)]
    found: dict[str, str] = {}
    beside = [os.path.join(split, "metadata.jsonl") for split in SPLIT_NAMES]
    for name in (*names, *(name for name in beside if os.path.isfile(os.path.join(source, name)))):
        file = os.path.join(source, name)
        if not _has_boxes(file):
            continue
        split = SPLIT_NAMES.get((os.path.dirname(name) or os.path.splitext(name)[0]).lower(), ALL)
        if split in found or (found and ALL in (split, *found)):
            raise UserError(f"{source}: several manifests ({shown([*found.values(), file])}). Give or keep one.")
        found[split] = file
    return found


def _has_boxes(file: str) -> bool:
    try:
        _, first = next(_lines(file), (0, {}))
    except UserError:
        return False
    return key_of(first, IMAGE) is not None and ("objects" in first or "boxes" in first)


def _read_manifest(file: str, split: str, parts: dict[str, Draft], findings: Findings) -> None:
    lines = list(_lines(file))
    folder = os.path.dirname(file) or "."
    # Each file has one form: corners and widths cannot be distinguished line by line.
    guess = bool(lines) and "objects" in lines[0][1]
    root = likeliest([str(line.get(key_of(line, IMAGE) or "")) for _, line in lines], [folder, f"{folder}/images"])
    for number, line in lines:
        name, told = line.get(key_of(line, IMAGE) or ""), str(line.get("split", "")).lower()
        if told and told not in SPLIT_NAMES:
            raise UserError(f"{file}, line {number}: the split {told!r} is not one of train, val, test.")
        if isinstance(name, str) and "://" in name:
            raise UserError(f"{file}, line {number}: {name} is a URL. Download the images first.")
        form = "" if guess else FORM
        empty = Draft(file, root, form=form, mark="object {}", guess=guess)
        draft = parts.setdefault(SPLIT_NAMES[told] if told else split, empty)
        try:
            if not isinstance(name, str) or not name:
                raise UserError("no image is named")
            found = things(line.get("objects")) if guess else things(_columns(line))
        except UserError as error:
            findings.add("annotation-malformed", file, f"line {number}: {error}", detail=DETAIL)
            continue
        size = tuple(line.get(side) for side in ("height", "width"))
        known = all(isinstance(side, int) and side > 0 for side in size)
        owner = draft.image(name.replace("\\", "/"), size if known else UNTOLD)  # pyright: ignore[reportArgumentType]
        for k, thing in enumerate(found, 1):
            if isinstance(thing, Thing):
                draft.box(owner, k, thing.box, thing.label, crowd=thing.crowd, area=thing.area)
            else:
                findings.add("annotation-malformed", file, f"line {number}, object {k}: {thing}", detail=DETAIL)


def _columns(line: dict[str, Any]) -> dict[str, Any]:
    boxes, labels = line.get("boxes"), line.get("labels")
    if not isinstance(boxes, list) or not isinstance(labels, list):
        raise UserError("boxes and labels must be lists")
    return {"bbox": boxes, "category": labels, **({"crowd": line["crowd"]} if "crowd" in line else {})}


def _lines(file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of every nonempty line."""
    try:
        with open(file, encoding="utf-8-sig") as stream:
            for number, text in enumerate(stream, 1):
                if not text.strip():
                    continue
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise UserError(f"{file}, line {number}: is not an object. {DETAIL}")
                yield number, line
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: cannot be read as lines of JSON ({error}).") from None
