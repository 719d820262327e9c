"""COCO's JSON: one file of images, annotations and categories -> BoxFiles.

Whatever is wrong with a file is an error that names it, or counted and told: never silently repaired.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datasets.boxset import Annotation, BoxFiles, wrong_size
from datasets.names import NameTable
from vit.errors import UserError, nearest, shown
from vit.image import image_size

# Above this, opening every file to compare its size would take minutes; the rest is compared when it is read.
SIZES_CHECKED = 20_000
BEYOND_SHARE = 0.01


@dataclass
class Findings:
    """What a reader saw in one file and left out or changed."""

    file: str
    boxes: int = 0
    ids: int = 0
    """Annotation ids that are 0 or occur twice."""
    unlisted: int = 0
    """Annotations of images that are not listed."""
    empty: int = 0
    """Boxes with a side of 0 or less."""
    odd: int = 0
    """Boxes with NaN or infinity."""
    beyond: int = 0
    """Boxes cut at the border of the image."""
    crowd: int = 0
    negatives: int = 0
    areas: int = 0
    """Annotations without an area."""
    _lines: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        lines = []
        if self.ids:
            lines.append(
                f"Warning: {self.file}: {self.ids} annotation ids are 0 or occur twice. They were numbered anew, since "
                "COCO's evaluation would miss these objects."
            )
        if self.unlisted:
            lines.append(f"Warning: {self.file}: {self.unlisted} annotations of images that are not listed: left out.")
        if self.empty:
            lines.append(f"{self.file}: {self.empty} boxes have a side of 0 or less: left out.")
        if self.odd:
            lines.append(f"Warning: {self.file}: {self.odd} boxes are NaN or infinite: left out.")
        if self.beyond > BEYOND_SHARE * max(1, self.boxes):
            lines.append(
                f"Warning: {self.file}: {self.beyond} of {self.boxes} boxes reach beyond their image and were cut. "
                "Are they [x, y, width, height] in pixels?"
            )
        if self.negatives:
            lines.append(f"{self.file}: {self.negatives} images have no boxes: they are kept as negatives.")
        if self.crowd:
            lines.append(f"{self.file}: {self.crowd} crowd boxes: not trained on, ignored in evaluation.")
        return lines


def read_coco(file: str, roots: list[str], *, strict: bool = False) -> tuple[BoxFiles, tuple[int, ...], list[str]]:
    """A COCO annotation file -> its images, the category id of each class, and what to tell.

    roots: folders to look for the images in; the first that has the first image is taken.
    strict: a NaN or infinite box is an error instead of being left out.

    Raises UserError: no JSON or none of COCO's form, an image id or category twice, images that are missing or have
    another size than the file says.
    """
    content = _load(file)
    classes, category_ids = _categories(content, file)
    images = _images(content, file)
    root = _root(images, roots, file)
    _require_files(images, root, file)
    findings = Findings(file)
    rows = _rows(content, images, category_ids, findings, strict)
    order = np.argsort(rows["image"], kind="stable")
    counts = np.bincount(rows["image"], minlength=len(images))
    findings.negatives = int((counts == 0).sum())
    columns = Annotation(*(rows[name][order] for name in ("boxes", "labels", "crowd", "area")))
    sizes = np.array([[image["height"], image["width"]] for image in images], np.int64).reshape(-1, 2)
    found = BoxFiles(
        classes,
        root,
        NameTable.of([image["file_name"] for image in images]),
        np.cumsum(counts),
        columns,
        np.array([image["id"] for image in images], np.int64),
        sizes,
    )
    _check_sizes(found)
    return found, category_ids, findings.notes()


def _load(file: str) -> dict[str, Any]:
    try:
        with open(file, encoding="utf-8") as stream:
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


def _categories(content: dict[str, Any], file: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and ids in the order of the ids, whatever these are: gapped, from 0 or from 1."""
    pairs = sorted(
        (_integer(row, "id", file, "category"), str(row.get("name", row.get("id")))) for row in content["categories"]
    )
    for what, values in (("id", [k for k, _ in pairs]), ("name", [name for _, name in pairs])):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise UserError(f"{file}: the category {what} {shown(twice)} occurs twice.")
    if not pairs:
        raise UserError(f"{file}: there are no categories.")
    return tuple(name for _, name in pairs), tuple(k for k, _ in pairs)


def _images(content: dict[str, Any], file: str) -> list[dict[str, Any]]:
    images = content["images"]
    if not images:
        raise UserError(f"{file}: there are no images.")
    for image in images:
        for key in ("id", "width", "height"):
            image[key] = _integer(image, key, file, "image")
        if not isinstance(image.get("file_name"), str):
            raise UserError(f"{file}: image {image['id']} has no file_name.")
    twice = [k for k, count in Counter(image["id"] for image in images).items() if count > 1]
    if twice:
        raise UserError(f"{file}: {len(twice)} image ids occur twice: {shown(twice)}. Number the images anew.")
    return images


def _integer(row: dict[str, Any], key: str, file: str, what: str) -> int:
    value = row.get(key)
    # Some tools write ids as strings or as 3.0.
    try:
        number = int(value)  # pyright: ignore[reportArgumentType]
        if number == float(value):  # pyright: ignore[reportArgumentType]
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError(
        f"{file}: {what} {row.get('id', row.get('name', '?'))!r} has the {key} {value!r}, not a whole number."
    )


def _root(images: list[dict[str, Any]], roots: list[str], file: str) -> str:
    for root in roots:
        if os.path.isfile(os.path.join(root, images[0]["file_name"])):
            return root
    # Some exports name images by a path from another machine's folder.
    raise UserError(
        f"{file}: its first image, {images[0]['file_name']}, is in none of {shown(roots)}. Put the images beside the "
        "annotations, or correct file_name."
    )


def _require_files(images: list[dict[str, Any]], root: str, file: str) -> None:
    missing = [image["file_name"] for image in images if not os.path.isfile(os.path.join(root, image["file_name"]))]
    if missing:
        raise UserError(
            f"{file}: {len(missing)} of {len(images)} images are not in {root}: {shown(missing)}. Add them, or take "
            "them out of the annotations."
        )


def _rows(
    content: dict[str, Any],
    images: list[dict[str, Any]],
    category_ids: tuple[int, ...],
    findings: Findings,
    strict: bool,
) -> dict[str, np.ndarray]:
    file = findings.file
    place = {image["id"]: i for i, image in enumerate(images)}
    label = {k: i for i, k in enumerate(category_ids)}
    seen: set[Any] = set()
    where: list[int] = []
    boxes: list[tuple[float, ...]] = []
    labels: list[int] = []
    crowd: list[bool] = []
    areas: list[float] = []
    for row in content["annotations"]:
        findings.ids += not row.get("id") or row["id"] in seen
        seen.add(row.get("id"))
        if row.get("image_id") not in place:
            findings.unlisted += 1
            continue
        i = place[row["image_id"]]
        box = _box(row, images[i], findings, strict)
        if box is None:
            continue
        category = row.get("category_id")
        if category not in label:
            raise UserError(
                f"{file}: annotation {row.get('id')} has category_id {category!r}; the categories are "
                f"{shown(category_ids)}.{nearest(str(category), map(str, category_ids))}"
            )
        where.append(i)
        boxes.append(box)
        labels.append(label[category])
        crowd.append(bool(row.get("iscrowd", 0)))
        area = row.get("area")
        known = isinstance(area, int | float) and math.isfinite(area) and area > 0
        findings.areas += not known
        areas.append(float(area) if known else (box[2] - box[0]) * (box[3] - box[1]))  # pyright: ignore
    findings.boxes, findings.crowd = len(boxes), sum(crowd)
    return {
        "image": np.array(where, np.int64),
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.array(labels, np.int64),
        "crowd": np.array(crowd, bool),
        "area": np.array(areas, np.float32),
    }


def _box(row: dict[str, Any], image: dict[str, Any], findings: Findings, strict: bool) -> tuple[float, ...] | None:
    """xyxy within the image, or None for a box that is left out."""
    try:
        x, y, width, height = map(float, row["bbox"])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{findings.file}: annotation {row.get('id')} has the bbox {row.get('bbox')!r}, not [x, y, width, height]."
        ) from None
    if not all(map(math.isfinite, (x, y, width, height))):
        if strict:
            raise UserError(f"{findings.file}: annotation {row.get('id')} has the bbox {row['bbox']}: not finite.")
        findings.odd += 1
        return None
    # A hair over the border is rounding.
    tolerance = 0.5
    beyond = (
        min(x, y) < -tolerance or x + width > image["width"] + tolerance or y + height > image["height"] + tolerance
    )
    right, bottom = min(x + width, image["width"]), min(y + height, image["height"])
    x, y = max(x, 0.0), max(y, 0.0)
    if width <= 0 or height <= 0 or right <= x or bottom <= y:
        findings.empty += 1
        return None
    findings.beyond += beyond
    return x, y, right, bottom


def _check_sizes(images: BoxFiles) -> None:
    for i in range(min(len(images), SIZES_CHECKED)):
        try:
            found = image_size(images.name(i))
        except UserError:
            continue  # a file that cannot be read is reported when it is decoded
        told = (int(images.sizes[i, 0]), int(images.sizes[i, 1]))
        if found != told:
            raise UserError(wrong_size(images.name(i), found, told))
