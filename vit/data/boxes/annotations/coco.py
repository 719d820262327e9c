"""Read COCO JSON (images, annotations, categories) into a Draft. Boxes are [x, y, width, height] in pixels."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from typing import Any

from vit.data.boxes.annotations import coco_files
from vit.data.boxes.draft import UNTOLD, Categories, Draft, Drafts, likeliest
from vit.data.check.findings import Findings
from vit.errors import UserError, shown

FORM = "[x, y, width, height] in pixels"

look = coco_files.look


def read(source: str, findings: Findings) -> Drafts:
    """Read a folder with COCO annotations, or one .json file.

    Raises UserError for a file that is not COCO JSON, a duplicate category, and images that are not found.
    """
    files = coco_files.find(source)
    parts: dict[str, Draft] = {}
    categories: dict[str, Categories] = {}
    for split, (file, roots) in files.items():
        parts[split], categories[file] = read_coco(file, roots, findings)
    first, *others = categories
    for file in others:
        _compare(first, file, categories, findings)
    rule = "as found in " + ", ".join(file for file, _ in files.values())
    return Drafts(parts, categories[first], rule)


def read_coco(file: str, roots: list[str], findings: Findings) -> tuple[Draft, Categories]:
    """Read one annotation file. roots: candidate image folders; the one with most of the first images is used."""
    content = _load(file)
    categories = _categories(content, file)
    images = _images(content, file)
    draft = Draft(file, _root(images, roots, file), form=FORM)
    for image in images:
        draft.image(image["file_name"], (image["height"], image["width"]), image["id"])
    _annotations(content["annotations"], draft, findings)
    return draft, categories


def _load(file: str) -> dict[str, Any]:
    try:
        with open(file, encoding="utf-8-sig") as stream:
            content = json.load(stream)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}).") from None
    missing = [key for key in ("images", "annotations", "categories") if not _is_rows(content, key)]
    if missing:
        raise UserError(f"{file}: not COCO's form; {shown(missing)} must be a list of objects.")
    return content


def _is_rows(content: Any, key: str) -> bool:
    rows = content.get(key) if isinstance(content, dict) else None
    return isinstance(rows, list) and all(isinstance(row, dict) for row in rows)


def _categories(content: dict[str, Any], file: str) -> Categories:
    """Names and ids, sorted by id. Ids may have gaps and may start anywhere."""
    pairs = sorted(
        (_integer(row, "id", file, "category"), str(row.get("name", row.get("id")))) for row in content["categories"]
    )
    for what, values in (("id", [k for k, _ in pairs]), ("name", [name for _, name in pairs])):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise UserError(f"{file}: the category {what} {shown(twice)} occurs twice.")
    if not pairs:
        raise UserError(f"{file}: there are no categories.")
    return Categories(tuple(name for _, name in pairs), tuple(k for k, _ in pairs))


def _images(content: dict[str, Any], file: str) -> list[dict[str, Any]]:
    images = content["images"]
    if not images:
        raise UserError(f"{file}: there are no images.")
    for image in images:
        image["id"] = _integer(image, "id", file, "image")
        # Some exports omit the size or write 0.
        told = [_integer(image, key, file, "image") if image.get(key) else 0 for key in ("height", "width")]
        image["height"], image["width"] = told if min(told) > 0 else UNTOLD
        if not isinstance(image.get("file_name"), str):
            raise UserError(f"{file}: image {image['id']} has no file_name.")
        # Windows tools write backslashes.
        image["file_name"] = image["file_name"].replace("\\", "/")
    return images


def _integer(row: dict[str, Any], key: str, file: str, what: str) -> int:
    number = _whole(row.get(key))
    if number is not None:
        return number
    name = row.get("id", row.get("name", "?"))
    raise UserError(f"{file}: {what} {name!r} has the {key} {row.get(key)!r}, not a whole number.")


def _whole(value: Any) -> int | None:
    # Some tools write ids as strings or as 3.0.
    try:
        number = int(value)
        return number if number == float(value) and abs(number) < 2**63 else None
    except (TypeError, ValueError, OverflowError):
        return None


def _root(images: list[dict[str, Any]], roots: list[str], file: str) -> str:
    names = [image["file_name"] for image in images]
    root = likeliest(names, roots)
    # Some exports contain paths from another machine.
    if not any(os.path.isfile(os.path.join(root, name)) for name in names):
        raise UserError(
            f"{file}: its images, such as {names[0]}, are in none of {shown(roots)}. Put the images beside the "
            "annotations, or correct file_name."
        )
    return root


def _annotations(rows: list[dict[str, Any]], draft: Draft, findings: Findings) -> None:
    n = len(rows)
    place: dict[int | None, int] = {k: i for i, k in enumerate(draft.ids)}
    seen: set[int | None] = set()
    for row in rows:
        number, name = _whole(row.get("id")), f"annotation {row.get('id')}"
        if not number or number in seen:
            findings.add("annotation-id", draft.where, name, of=n)
        seen.add(number)
        owner = place.get(_whole(row.get("image_id")))
        if owner is None:
            findings.add("annotation-unlisted", draft.where, f"{name}: image {row.get('image_id')}", of=n)
            continue
        try:
            x, y, width, height = map(float, row["bbox"])
        except (KeyError, TypeError, ValueError, OverflowError):
            found = f"{name}: bbox {row.get('bbox')!r}"
            findings.add("annotation-malformed", draft.where, found, of=n, detail=f"A bbox is {FORM}.")
            continue
        category = _whole(row.get("category_id"))
        draft.box(
            owner,
            row.get("id"),
            (x, y, x + width, y + height),
            f"category_id {row.get('category_id')!r}" if category is None else category,
            crowd=bool(row.get("iscrowd", 0)),
            area=_area(row.get("area")),
        )


def _area(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _compare(first: str, file: str, categories: dict[str, Categories], findings: Findings) -> None:
    """Report categories that only one of two files has."""
    ours, theirs = ({*zip(*categories[name], strict=True)} for name in (first, file))
    for only, where in ((ours - theirs, first), (theirs - ours, file)):
        names = [f"{name} ({number})" for name, number in sorted(only)]
        findings.add("classes-differ", file, [f"{name} only in {where}" for name in names], len(names))
