"""Read YOLO text files (one per image, one object per line) into a Draft.

    class x_center y_center width height        a box, normalized by the image size
    class x1 y1 x2 y2 x3 y3 ...                 a polygon: its box, and its area
    class x_center y_center width height ...    a box with keypoints, where data.yaml has kpt_shape

An image with no text file or an empty one is a negative. Class numbers start at 0; data.yaml names them.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from vit.data.boxes.annotations import yolo_data
from vit.data.boxes.annotations.yolo_data import YoloData, YoloPart
from vit.data.boxes.draft import Categories, Draft, Drafts
from vit.data.boxes.named_classes import pinned_categories
from vit.data.check.findings import Findings

FORM = "x_center, y_center, width, height in shares of the image's sides"
PIXELS = 2.0
"""Largest plausible normalized coordinate; a box with a larger one is in pixels."""

look = yolo_data.look


def read(source: str, findings: Findings) -> Drafts:
    """Read a folder with a data.yaml, the .yaml file, or a folder with images/, labels/ and classes.txt.

    Raises UserError for a YAML file without image locations or class names.
    """
    data = yolo_data.find(source, findings)
    drafts = {split: _draft(part, data, findings) for split, part in data.parts.items()}
    categories = Categories(tuple(data.names.values()), tuple(data.names))
    pinned = pinned_categories(os.path.dirname(data.file))
    if pinned is not None and pinned.names == categories.names:
        categories = pinned
    return Drafts(drafts, categories, f"as {data.file} says")


def _draft(part: YoloPart, data: YoloData, findings: Findings) -> Draft:
    draft = Draft(part.where, data.root, form=FORM, mark="line {}", shares=True, allowed=_allowed(data.names))
    used: set[str] = set()
    for picture in part.pictures:
        name = os.path.relpath(picture, data.root)
        # Lists may contain images outside the root.
        owner = draft.image(picture if name.startswith("..") else name.replace(os.sep, "/"))
        labels = yolo_data.label_file(picture)
        used.add(labels)
        for line, text in _lines(labels, part.where, findings):
            row = parse(text, data.keypoints)
            if isinstance(row, str):
                findings.add("annotation-malformed", part.where, f"{labels}, line {line}: {row}")
            elif all(map(math.isfinite, row.box)) and max(map(abs, row.box)) > PIXELS:
                findings.add("box-not-share", part.where, f"{labels}, line {line}")
            else:
                name = data.names.get(row.label, f"class {row.label}")
                draft.box(owner, line, row.box, name, area=row.area)
    alone = [name for name in yolo_data.label_files(part) if name not in used]
    findings.add("annotation-unlisted", part.where, alone, len(alone))
    return draft


class Row(NamedTuple):
    """One line of a label file."""

    label: int
    box: tuple[float, float, float, float]
    """xyxy, normalized."""
    area: float
    """Normalized area of a polygon; NaN for a box."""


def parse(text: str, keypoints: int = 0) -> Row | str:
    """Parse one line, or return what is wrong with it. keypoints: how many numbers follow a box."""
    words = text.split()
    try:
        label, *values = map(float, words)
    except ValueError:
        return f"{text[:60]!r} is not numbers"
    if label != label or label in (math.inf, -math.inf) or label != int(label):
        return f"the class {words[0]} is not a whole number"
    if len(values) == 4 + keypoints or len(values) == 4:
        x, y, width, height = values[:4]
        return Row(int(label), (x - width / 2, y - height / 2, x + width / 2, y + height / 2), math.nan)
    if keypoints or len(values) < 6 or len(values) % 2:
        expected = f"5 numbers, or {5 + keypoints} with keypoints" if keypoints else "5 numbers, or a polygon's"
        return f"{len(words)} numbers, not {expected}"
    xs, ys = values[::2], values[1::2]
    area = sum(x * ys[k - 1] - xs[k - 1] * y for k, (x, y) in enumerate(zip(xs, ys, strict=True)))
    return Row(int(label), (min(xs), min(ys), max(xs), max(ys)), abs(area) / 2)


def _lines(file: str, where: str, findings: Findings) -> list[tuple[int, str]]:
    """The nonempty lines, numbered from 1."""
    try:
        with open(file, encoding="utf-8-sig") as stream:
            return [(k, line.strip()) for k, line in enumerate(stream, 1) if line.strip()]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        findings.add("annotation-malformed", where, f"{file}: cannot be read ({error})")
        return []


def _allowed(names: dict[int, str]) -> str:
    listed = ", ".join(f"{k} {name}" for k, name in list(names.items())[:10])
    return f"Allowed are {min(names)}..{max(names)}: {listed}{', ...' if len(names) > 10 else ''}."
