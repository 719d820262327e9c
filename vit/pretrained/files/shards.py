"""Weights in several files with an index of which file holds which tensor, as Hugging Face writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vit.errors import UserError, shown

INDEX = ".index.json"


def weight_map(index: Path) -> dict[str, str]:
    """Tensor -> the file beside `index` that holds it. Raises UserError if `index` is not a valid index."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(key): str(value) for key, value in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is not an index of weights ({error!r}). Fetch it again.") from None
    strange = sorted({name for name in names.values() if Path(name).name != name or name in ("", ".", "..")})
    if strange:
        raise UserError(f"{index} names files outside its folder: {shown(strange)}. It was not written by a library.")
    return names


def open_shards(index: Path, open_one: Callable[[Path], Any]) -> tuple[dict[str, Any], Callable[[str], Any]]:
    """The shapes of all tensors of an index, and a function that reads one. `open_one` opens a file as a Source. Raises
    UserError if files or tensors of the index are missing."""
    where = weight_map(index)
    files = sorted(set(where.values()))
    absent = [name for name in files if not (index.parent / name).is_file()]
    if absent:
        raise UserError(
            f"{index}: {len(absent)} of its {len(files)} files are not in its folder: {shown(absent)}. Put them there."
        )
    parts = {name: open_one(index.parent / name) for name in files}
    lost = sorted(key for key, name in where.items() if key not in parts[name].shapes)
    if lost:
        raise UserError(f"{index}: its files do not hold {shown(lost)}. Fetch them again.")
    # Tensors that the index does not name are kept, too: the layout decides whether they belong to the model.
    homes = {key: part for part in parts.values() for key in part.shapes}
    homes |= {key: parts[name] for key, name in where.items()}
    shapes = {key: part.shapes[key] for key, part in homes.items()}
    return shapes, lambda key: homes[key].get(key)
