"""Read a table of boxes, one per line, into a Draft: `image,xmin,ymin,xmax,ymax,label`, as CSV or TSV.

Coordinates are pixel edges measured from the upper left corner: a box that covers a 40 x 30 image is 0,0,40,30. A line
with only an image is an image without boxes. Optional columns: `split`, `crowd`, and the image's `width` and `height`.
Column names of other tools (filename, class, x1, ...) are accepted, as is a table without a header in this column
order. Images are searched for next to the table.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from typing import NamedTuple

from vit.data.boxes.draft import ALL, UNTOLD, Draft, Drafts, likeliest
from vit.data.boxes.named_classes import PINNED, named_classes
from vit.data.check.findings import Findings
from vit.data.split_names import SPLIT_NAMES
from vit.errors import UserError, shown

FORM = "xmin, ymin, xmax, ymax in pixels"
EXPECTED = "a .csv with image,xmin,ymin,xmax,ymax,label"
SUFFIXES = (".csv", ".tsv")
ORDER = ("image", "xmin", "ymin", "xmax", "ymax", "label")
SIDES = ORDER[1:5]
ALIASES = {
    "image": ("image", "path", "file", "filename", "file_name", "image_path", "image_name"),
    "label": ("label", "class", "class_name", "category", "name"),
    "xmin": ("xmin", "x_min", "x1", "left"),
    "ymin": ("ymin", "y_min", "y1", "top"),
    "xmax": ("xmax", "x_max", "x2", "right"),
    "ymax": ("ymax", "y_max", "y2", "bottom"),
    "crowd": ("crowd", "iscrowd", "difficult"),
    "split": ("split",),
    "width": ("width",),
    "height": ("height",),
}
COLUMNS = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
TRUE = ("1", "true", "yes")


class Line(NamedTuple):
    """number: line number. cells: by column, stripped."""

    number: int
    cells: dict[str, str]


def look(source: str) -> str:
    """The tables of boxes in a folder, for a message; "" if there are none."""
    if os.path.isfile(source):
        return source if _has_boxes(source) else ""
    return ", ".join(os.path.relpath(file, source) for file in find(source).values())


def read(source: str, findings: Findings) -> Drafts:
    """Read a table, or a folder: DIR/{train,val,test}.csv, DIR/{train,...}/_annotations.csv or DIR/NAME.csv.

    Raises UserError for a table without the required columns.
    """
    files = find(source)
    if not files:
        raise UserError(f"{source}: no table of boxes. Expected {EXPECTED}.")
    parts: dict[str, Draft] = {}
    for split, file in files.items():
        _read_table(file, split, parts, findings)
    rule = "as found in " + ", ".join(files.values())
    return Drafts(parts, named_classes(parts, source, findings), rule)


def find(source: str) -> dict[str, str]:
    """Return {split: table}. Raises UserError if two tables map to the same split."""
    if os.path.isfile(source):
        return {ALL: source}
    if not os.path.isdir(source):
        return {}
    tables = [os.path.join(source, name) for name in sorted(os.listdir(source)) if name.lower().endswith(SUFFIXES)]
    for name in SPLIT_NAMES:
        beside = os.path.join(source, name, "_annotations.csv")
        if os.path.isfile(beside):
            tables.append(beside)
    found: dict[str, str] = {}
    for file in tables:
        if os.path.basename(file) == PINNED or not _has_boxes(file):
            continue
        stem = os.path.splitext(os.path.basename(file))[0].lower()
        name = os.path.basename(os.path.dirname(file)) if stem == "_annotations" else stem
        split = SPLIT_NAMES.get(name, ALL)
        if split in found or (found and ALL in (split, *found)):
            raise UserError(f"{source}: several tables ({shown([*found.values(), file])}). Give one, or remove one.")
        found[split] = file
    return found


def _has_boxes(file: str) -> bool:
    try:
        first = next(_table(file), None)
    except UserError:
        return False
    return first is not None and (_header(first[1]) is not None or _is_plain(first[1]))


def _read_table(file: str, split: str, parts: dict[str, Draft], findings: Findings) -> None:
    lines = list(_lines(file))
    folder = os.path.dirname(file) or "."
    root = likeliest([line.cells["image"] for line in lines], [folder, os.path.join(folder, "images")])
    owners: dict[tuple[str, str], int] = {}
    for line in lines:
        cells, place = line.cells, f"{file}, line {line.number}"
        told = cells.get("split", "").lower()
        if told and told not in SPLIT_NAMES:
            raise UserError(f"{place}: the split {told!r} is not one of train, val, test.")
        if "://" in cells["image"]:
            raise UserError(f"{place}: {cells['image']} is a URL. Download the images first.")
        mine = SPLIT_NAMES[told] if told else split
        draft = parts.setdefault(mine, Draft(file, root, form=FORM, mark="line {}"))
        try:
            width, height = (int(float(cells.get(side) or 0)) for side in ("width", "height"))
            bare = not any(cells[name] for name in (*SIDES, "label"))
            x, y, right, bottom = (0.0, 0.0, 0.0, 0.0) if bare else (float(cells[name]) for name in SIDES)
            if not cells["image"] or not (bare or cells["label"]):
                raise ValueError
        except (ValueError, OverflowError):
            detail = f"A line holds {', '.join(ORDER)}."
            findings.add("annotation-malformed", file, f"line {line.number}: {','.join(cells.values())}", detail=detail)
            continue
        key = (mine, cells["image"])
        if key not in owners:
            size = (height, width) if min(width, height) > 0 else UNTOLD
            owners[key] = draft.image(cells["image"].replace("\\", "/"), size)
        if not bare:
            crowd = cells.get("crowd", "").lower() in TRUE
            draft.box(owners[key], line.number, (x, y, right, bottom), cells["label"], crowd=crowd)


def _lines(file: str) -> Iterator[Line]:
    """Yield the lines of a table as {column: cell}."""
    rows = _table(file)
    number, first = next(rows, (1, []))
    header = _header(first)
    if header is None:
        if not _is_plain(first):
            raise UserError(
                f"{file}, line {number}: the columns are {shown(first) or 'none'}; needed are {', '.join(ORDER)}."
            )
        header = list(ORDER)
        yield Line(number, dict(zip(header, first, strict=True)))
    for number, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{file}, line {number}: {len(cells)} cells where the header has {len(header)}.")
        yield Line(number, dict(zip(header, cells, strict=True)))


def _table(file: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of every nonempty line."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter="\t" if file.lower().endswith(".tsv") else ",")
            for cells in reader:
                if any(cells):
                    yield reader.line_num, [cell.strip() for cell in cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read as a table in UTF-8 ({error}).") from None


def _header(cells: list[str]) -> list[str] | None:
    """The columns by our names; None if a required one is missing."""
    names = [COLUMNS.get(cell.lower(), cell) for cell in cells]
    needed = all(names.count(name) == 1 for name in ORDER)
    return names if needed else None


def _is_plain(cells: list[str]) -> bool:
    """Whether this is the first line of a table without a header."""
    try:
        return len(cells) == 6 and (not any(cells[1:5]) or all(float(cell) > -1e9 for cell in cells[1:5]))
    except ValueError:
        return False
