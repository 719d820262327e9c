"""Parse the `objects` value of Hugging Face's detection data sets: boxes and categories of one image.

{"bbox": [[x, y, width, height], ...], "category": [0, ...]}       or a list of {"bbox": ..., "category": ...}
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from vit.errors import UserError

BOX = ("bbox", "bboxes", "boxes", "box")
LABEL = ("category", "categories", "label", "labels", "category_id", "class", "classes")
CROWD = ("iscrowd", "is_crowd", "crowd")


class Thing(NamedTuple):
    """One object. box: its four numbers, in the file's order."""

    box: tuple[float, float, float, float]
    label: int | str
    crowd: bool
    area: float


def things(value: Any) -> list[Thing | str]:
    """The objects of an image; for an invalid one, what is wrong with it.

    Raises UserError if the value has neither of the two forms.
    """
    if value is None:
        return []
    if isinstance(value, dict):
        columns = {key: column for key, column in value.items() if isinstance(column, list)}
        lengths = {len(column) for column in columns.values()}
        if len(lengths) > 1:
            raise UserError(f"the lists in objects have different lengths ({', '.join(map(str, sorted(lengths)))})")
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    elif isinstance(value, list) and all(isinstance(row, dict) for row in value):
        rows = value
    else:
        raise UserError("objects is neither lists by name nor a list of objects")
    return [_thing(row) for row in rows]


def key_of(names: Any, among: tuple[str, ...]) -> str | None:
    """The first name in `among` that is in `names`."""
    return next((name for name in among if name in names), None)


def _thing(row: dict[str, Any]) -> Thing | str:
    box: Any = row.get(key_of(row, BOX) or "")
    label: Any = row.get(key_of(row, LABEL) or "")
    try:
        a, b, c, d = map(float, box)
    except (TypeError, ValueError, OverflowError):
        return f"bbox {str(box)[:60]}"
    if not isinstance(label, int | str) or isinstance(label, bool) or label == "":
        return f"category {str(label)[:60]}"
    area = row.get("area")
    crowd = bool(row.get(key_of(row, CROWD) or ""))
    area = float(area) if isinstance(area, int | float) and abs(area) < 1e18 else math.nan
    return Thing((a, b, c, d), label, crowd, area)
