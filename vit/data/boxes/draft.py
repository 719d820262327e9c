"""Turn a reader's Draft into BoxFiles or BoxRows: the one place that validates images and boxes of every format.

A detection reader fills a Draft without validating boxes. `settle` records each fault in the findings and drops or
clips what it must; nothing is repaired silently.
"""

from __future__ import annotations

import math
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vit.data.boxes.order import ordered
from vit.data.check.findings import Findings
from vit.data.sets.boxset import Annotation, BoxFiles, BoxRows, differing_size
from vit.data.sets.names import NameTable
from vit.data.sets.rows import Store
from vit.errors import UserError, shown
from vit.images.preprocess import image_size

SIZES_CHECKED = 20_000
"""Images whose size is checked up front; more would take minutes, so the rest are checked when read."""
STORED_CHECKED = 200
"""The same for images in a store, where getting a size means reading the whole image."""
UNTOLD = (0, 0)
LOOKED_FOR = 20
"""How many of the first images decide the image folder."""
ALL = "all"


class Categories(NamedTuple):
    """The classes of a source, and their ids in its own files."""

    names: tuple[str, ...]
    ids: tuple[int, ...]


class Drafts(NamedTuple):
    """What a reader found in a source."""

    parts: dict[str, Draft]
    """By split: train, val, test; ALL if the source has no splits."""
    categories: Categories
    rule: str
    """What determined the splits."""


@dataclass
class Draft:
    """The images and boxes of one split as a reader found them, not yet validated."""

    where: str
    """The annotation file or folder, for messages."""
    root: str
    """The folder to which the names are relative."""
    form: str = ""
    """The meaning of a box's four numbers in this format, for messages."""
    mark: str = "annotation {}"
    """Format string that names one box of an image in messages."""
    slack: float = 0.5
    """Overhang in pixels that counts as rounding."""
    shares: bool = False
    """Boxes and areas are normalized by the image size, not in pixels."""
    guess: bool = False
    """Detect whether boxes are corners or x, y, width, height."""
    allowed: str = ""
    """The allowed labels for messages, if the categories do not give them."""
    store: Store | None = None
    """Holds the images by row if they are not separate files."""
    places: np.ndarray | None = None
    """int64 [n]: the store's rows, if not all."""
    names: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """(H, W) from the source, else UNTOLD."""
    ids: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    """The image index of each box."""
    marks: list[object] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    """xyxy; with `guess`, as in the file."""
    labels: list[int | str] = field(default_factory=list)
    """A category id or name."""
    crowd: list[bool] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    """Area of the object's outline; NaN for the box area."""

    def image(self, name: str, size: tuple[int, int] = UNTOLD, id: int | None = None) -> int:
        """Add an image and return its index."""
        self.names.append(name)
        self.sizes.append(size)
        self.ids.append(len(self.ids) + 1 if id is None else id)
        return len(self.names) - 1

    def box(
        self,
        owner: int,
        mark: object,
        box: tuple[float, float, float, float],
        label: int | str,
        *,
        crowd: bool = False,
        area: float = math.nan,
    ) -> None:
        """Add a box to image `owner`; `mark` is its number or line in the file."""
        self.owners.append(owner)
        self.marks.append(mark)
        self.boxes.append(box)
        self.labels.append(label)
        self.crowd.append(crowd)
        self.areas.append(area)

    def named(self, rows: np.ndarray) -> list[str]:
        """Names of the first 10 of these boxes, for messages."""
        return [f"{self.names[self.owners[k]]}, {self.mark.format(self.marks[k])}" for k in rows[:10].tolist()]


def settle(draft: Draft, categories: Categories, findings: Findings) -> BoxFiles | BoxRows:
    """Validate a draft: clip boxes to their images and record every fault in the findings.

    Drops missing and 0-byte images, and boxes that are empty, not finite or have an unknown label.
    """
    there = _there(draft, findings)
    sizes = _sizes(draft, there, findings)
    kept, columns = _boxes(draft, there, sizes, categories, findings)
    owners = (np.cumsum(there) - 1)[np.array(draft.owners, np.int64)[kept]]
    order = np.argsort(owners, kind="stable")
    counts = np.bincount(owners, minlength=int(there.sum()))
    chosen = np.flatnonzero(there)
    rows = Annotation(*(column[order] for column in columns))
    rest = (np.cumsum(counts), rows, np.array(draft.ids, np.int64)[chosen], sizes[chosen])
    if draft.store is not None:
        places = chosen if draft.places is None else draft.places[chosen]
        return BoxRows(categories.names, draft.store, places, *rest)
    names = NameTable.of([draft.names[i] for i in chosen.tolist()])
    return BoxFiles(categories.names, draft.root, names, *rest)


def _there(draft: Draft, findings: Findings) -> np.ndarray:
    """bool [n]: which images are nonempty files."""
    n = len(draft.names)
    twice = [k for k, count in Counter(draft.ids).items() if count > 1]
    findings.add("image-id-twice", draft.where, map(str, twice), len(twice), of=n)
    again = [name for name, count in Counter(draft.names).items() if count > 1]
    findings.add("image-twice", draft.where, again, len(again), of=n)
    there = np.ones(n, bool)
    for i, name in enumerate(draft.names if draft.store is None else ()):
        try:
            status = os.stat(os.path.join(draft.root, name))
            found = stat.S_ISREG(status.st_mode)
        except (OSError, ValueError):  # ValueError: a null byte in the name
            found = False
        if not found:
            findings.add("image-missing", draft.where, name, of=n, detail=f"They were looked for in {draft.root}.")
        elif status.st_size == 0:
            findings.add("file-empty", draft.where, name, of=n)
        there[i] = found and status.st_size > 0
    return there


def _sizes(draft: Draft, there: np.ndarray, findings: Findings) -> np.ndarray:
    """int64 [n, 2]: (H, W) of each image, read if the source lacks it; UNTOLD for one that is not an image."""
    sizes = np.array(draft.sizes, np.int64).reshape(-1, 2)
    limit = SIZES_CHECKED if draft.store is None else STORED_CHECKED
    for looked, i in enumerate(np.flatnonzero(there).tolist()):
        told = draft.sizes[i]
        if told != UNTOLD and looked >= limit:
            continue
        try:
            if draft.store is None:
                found = image_size(os.path.join(draft.root, draft.names[i]))
            else:
                found = image_size(draft.store.file(i if draft.places is None else int(draft.places[i]))[1])
        except UserError:
            continue  # an unreadable file is reported when it is decoded
        if told == UNTOLD:
            sizes[i] = found
        elif found != told:
            name = f"{draft.names[i]}: {differing_size(found, told)}"
            findings.add("size-differs", draft.where, name, of=len(there))
    return sizes


def _boxes(
    draft: Draft, there: np.ndarray, sizes: np.ndarray, categories: Categories, findings: Findings
) -> tuple[np.ndarray, Annotation]:
    """The rows to keep, int64 [m], and their columns."""
    n, where = len(draft.boxes), draft.where
    owners = np.array(draft.owners, np.int64)
    boxes = np.array(draft.boxes, np.float64).reshape(-1, 4)
    extent = sizes[owners][:, [1, 0, 1, 0]].astype(np.float64)
    if draft.shares:
        boxes = boxes * extent
    if draft.guess:
        boxes = ordered(boxes, extent, where, findings)

    usable = there[owners] & (extent > 0).all(axis=1)
    finite = np.isfinite(boxes).all(axis=1)
    odd = np.flatnonzero(usable & ~finite)
    findings.add("box-not-finite", where, draft.named(odd), len(odd), of=n)
    usable &= finite

    boxes = np.where(usable[:, None], boxes, 0.0)
    over = np.concatenate([-boxes[:, :2], boxes[:, 2:] - extent[:, 2:]], axis=1).max(axis=1, initial=0.0)
    cut = np.clip(boxes, 0.0, extent)
    # Boxes outside the image or with swapped corners are empty after clipping; so are some after rounding to float32.
    cut32, turned = cut.astype(np.float32), (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    empty = turned | (cut32[:, 2:] <= cut32[:, :2]).any(axis=1)
    without = np.flatnonzero(usable & empty)
    findings.add("box-empty", where, draft.named(without), len(without), of=n)
    usable &= ~empty
    beyond = np.flatnonzero(usable & (over > draft.slack))
    hint = f"Are they {draft.form}?" if draft.form else ""
    findings.add("box-beyond", where, draft.named(beyond), len(beyond), of=n, detail=hint)

    position: dict[int | str, int] = {name: k for k, name in enumerate(categories.names)}
    position |= {number: k for k, number in enumerate(categories.ids)}
    labels = np.array([position.get(label, -1) for label in draft.labels], np.int64)
    unknown = np.flatnonzero(usable & (labels < 0))
    places = [f"{place}: {draft.labels[k]}" for place, k in zip(draft.named(unknown), unknown.tolist(), strict=False)]
    findings.add("label-unknown", where, places, len(unknown), of=n, detail=draft.allowed or allowed(categories))
    usable &= labels >= 0

    kept = np.flatnonzero(usable)
    areas = np.array(draft.areas, np.float64)[kept] * (extent[kept, 2:].prod(axis=1) if draft.shares else 1.0)
    # Use the rounded corners, so that a box has the same area in every format.
    corners = cut32[kept].astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    known = np.isfinite(areas) & (areas > 0)
    areas = np.where(known, areas, sides.prod(axis=1)).astype(np.float32)
    return kept, Annotation(cut32[kept], labels[kept], np.array(draft.crowd, bool)[kept], areas)


def allowed(categories: Categories) -> str:
    """The allowed labels, for messages."""
    ids, names = categories.ids, categories.names
    if ids == tuple(range(len(ids))):
        return f"Allowed are 0..{len(ids) - 1}: {shown(names)}."
    return f"Allowed are {shown([f'{number} ({name})' for number, name in zip(ids, names, strict=True)])}."


def likeliest(names: list[str], folders: list[str]) -> str:
    """The folder that holds most of the first names; the first folder if none holds any."""
    there = [sum(os.path.isfile(os.path.join(folder, name)) for name in names[:LOOKED_FOR]) for folder in folders]
    return folders[there.index(max(there))]
