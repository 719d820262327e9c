"""The checks that decode every image, in several processes."""

from __future__ import annotations

import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from vit.data.boxes.draft import SIZES_CHECKED, STORED_CHECKED
from vit.data.check.findings import Findings
from vit.data.check.image import Seen, inspect_image
from vit.data.check.leakage import Place
from vit.data.check.lookalikes import alike
from vit.data.check.quick import report_twins
from vit.data.sets.boxset import Boxed
from vit.data.sets.imageset import FileSet, ImageSet
from vit.errors import UserError

CHUNK = 32
"""Images per task of a process."""
ALONE = 4 * CHUNK
"""Up to this many images are checked without starting processes."""
SMALL = 0.01
"""Share of the median area below which an image is reported."""
HUGE = 25_000_000
"""In pixels."""
NARROW = 8
"""Longer side over shorter side."""


def full_check(
    sets: Mapping[str, Any], findings: Findings, *, workers: int = 1, tick: Callable[[int], None] = lambda done: None
) -> np.ndarray:
    """Add the findings of all images to `findings`; returns the sizes (H, W) of readable images, int64 [n, 2].

    Raises UserError if a process dies, for example for lack of memory.
    """
    places: list[Place] = []
    seen: list[Seen] = []
    for split, images in sets.items():
        for i, one in enumerate(_inspected(images, workers)):
            places.append((split, i))
            seen.append(one)
            tick(len(seen))
    n = len(seen)
    for (split, i), one in zip(places, seen, strict=True):
        name = sets[split].name(i)
        for id, detail in ((one.fault, one.detail), *one.notes) if one.fault else one.notes:
            findings.add(id, split, f"{name} ({detail})" if detail else name, of=len(sets[split]))
    _differing_sizes(sets, places, seen, findings)
    sizes = np.array([one.size for one in seen], np.int64).reshape(-1, 2)
    _odd_sizes(sets, places, sizes, findings)
    equal: dict[bytes, list[int]] = defaultdict(list)
    for k, one in enumerate(seen):
        if one.digest and one.fault != "file-empty":
            equal[one.digest].append(k)
    groups = [rows for rows in equal.values() if len(rows) > 1]
    report_twins(sets, [[places[k] for k in rows] for rows in groups], findings)
    again = {k for rows in groups for k in rows[1:]}
    _lookalikes(
        sets, places, [k for k, one in enumerate(seen) if one.look is not None and k not in again], seen, findings
    )
    return sizes[(sizes > 0).all(axis=1)] if n else sizes


def _inspected(images: ImageSet, workers: int) -> Iterator[Seen]:
    """Inspect every image of a set, in order."""
    n = len(images)
    if workers <= 1 or n <= ALONE:
        yield from (inspect_image(images, i) for i in range(n))
        return
    starts = range(0, n, CHUNK)
    done = 0
    # Spawned, not forked, since threads of the parent may hold locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_receive, initargs=(images,)) as pool:
        try:
            for chunk in pool.map(_chunk, starts):
                yield from chunk
                done += len(chunk)
        except BrokenProcessPool:
            last = images.name(min(n, done + workers * CHUNK) - 1)
            raise UserError(
                f"A process that decodes images died, perhaps for lack of memory, at an image from {images.name(done)} "
                f"to {last}. --workers 1 takes the least memory."
            ) from None


_mine: ImageSet | None = None
"""In a worker: the images that it inspects."""


def _receive(images: ImageSet) -> None:
    global _mine
    _mine = images


def _chunk(start: int) -> list[Seen]:
    assert _mine is not None
    return [inspect_image(_mine, i) for i in range(start, min(start + CHUNK, len(_mine)))]


def _differing_sizes(sets: Mapping[str, Any], places: list[Place], seen: list[Seen], findings: Findings) -> None:
    """Compare sizes with the annotations, beyond the images that the reader has compared."""
    for (split, i), one in zip(places, seen, strict=True):
        images = sets[split]
        if isinstance(images, Boxed) and not one.fault:
            compared = SIZES_CHECKED if isinstance(images, FileSet) else STORED_CHECKED
            height, width = images.sizes[i].tolist()
            if i >= compared and one.size != (height, width):
                detail = f"{images.name(i)}: {one.size[1]}x{one.size[0]}, its annotations say {width}x{height}"
                findings.add("size-differs", split, detail, of=len(images))


def _odd_sizes(sets: Mapping[str, Any], places: list[Place], sizes: np.ndarray, findings: Findings) -> None:
    area = sizes.prod(axis=1)
    known = area > 0
    if not known.any():
        return
    shape = sizes.max(axis=1) / np.maximum(sizes.min(axis=1), 1)
    odd = {
        "image-tiny": known & (area < SMALL * np.median(area[known])),
        "image-huge": area > HUGE,
        "image-narrow": known & (shape > NARROW),
    }
    for id, wrong in odd.items():
        for k in np.flatnonzero(wrong).tolist():
            (split, i), (height, width) = places[k], sizes[k].tolist()
            findings.add(id, split, f"{sets[split].name(i)} ({width}x{height})", of=len(sets[split]))


def _lookalikes(
    sets: Mapping[str, Any], places: list[Place], rows: list[int], seen: list[Seen], findings: Findings
) -> None:
    looks = [look for k in rows if (look := seen[k].look) is not None]
    inside: set[int] = set()
    across: set[int] = set()
    for a, b in alike(looks).tolist():
        one, two = places[rows[a]], places[rows[b]]
        kept = inside if one[0] == two[0] else across
        # In a group of similar images, each is reported once.
        if b not in kept:
            kept.add(b)
            names = " ~ ".join(f"{sets[split].name(i)} ({split})" for split, i in (one, two))
            findings.add("near-duplicate" if kept is inside else "near-leak", "all splits", names, of=len(rows))
