"""An image folder of a million files: time and memory of its index, and memory over three epochs with four workers.

The files are links to one small image, in as many class folders as ImageNet has. Nothing is decoded, since the index
and the order are what is measured. Limits: 20 s of CPU time, 200 MB, and no growth.
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.contest import parsed, write
from vit.data import LabelReader, LoaderOptions, Pipeline, named_augment, open_data, train_loader
from vit.data.sets.imageset import FileSet
from vit.images.preprocess import Preprocess


@dataclass(frozen=True)
class Index:
    files: int = 1_000_000
    classes: int = 1000
    epochs: int = 3
    """0 for the index alone."""
    workers: int = 4
    batch_size: int = 1000
    folder: str | None = None
    """Where the links are made, and kept for the next time; a temporary folder if left out."""
    json: str | None = None


def main(arguments: Sequence[str]) -> None:
    options = parsed(Index, arguments, "index", __doc__)
    folder = Path(options.folder or tempfile.mkdtemp())
    try:
        begun = time.perf_counter()
        links(folder, options.files, options.classes)
        print(f"{options.files:,} links in {options.classes} folders, made in {time.perf_counter() - begun:.0f} s")
        found: dict[str, Any] = {"files": options.files, **scanned(str(folder))}
        if options.epochs:
            found |= trained(str(folder), options)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    write(options.json, found)


def links(folder: Path, files: int, classes: int) -> None:
    """folder/n0000123/ILSVRC_00012345.JPEG -> one image, unless they are there."""
    if (folder / "train").is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "image.jpg"
    Image.new("RGB", (8, 8)).save(image)
    for k in range(classes):
        inside = folder / "train" / f"n{k:07d}"
        inside.mkdir(parents=True)
        for i in range(files * k // classes, files * (k + 1) // classes):
            os.symlink(image, inside / f"ILSVRC_{i:08d}.JPEG")


def scanned(folder: str) -> dict[str, float]:
    """Time without, and memory with, what counts memory."""
    before = resident()
    cpu, wall = time.process_time(), time.perf_counter()
    data = open_data(folder, kind="labels")
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    grown, images = resident() - before, sum(map(len, data.splits().values()))
    del data
    gc.collect()
    tracemalloc.start()
    data = open_data(folder, kind="labels")
    kept, peak = (value / 1e6 for value in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    del data
    print(f"index of {images:,} files: {wall:.1f} s, {cpu:.1f} s of CPU time")
    print(f"memory: {kept:.0f} MB kept, {peak:.0f} MB at most (tracemalloc); the process grew by {grown / 1e6:.0f} MB")
    return {"cpu_s": cpu, "wall_s": wall, "kept_mb": kept, "peak_mb": peak, "grown_mb": grown / 1e6}


def trained(folder: str, options: Index) -> dict[str, Any]:
    """Memory of this process and its workers after every tenth of an epoch, over all epochs."""
    found = open_data(folder, evaluation=True, kind="labels").splits()["train"]
    assert isinstance(found, FileSet)
    images = Blank(found.classes, found.targets, found.root, found.names)
    size = Preprocess((8, 8))
    pipeline = Pipeline(named_augment("none"), size)
    loader = train_loader(
        LabelReader(images, size, pipeline),
        LoaderOptions(batch_size=options.batch_size, epochs=options.epochs, workers=options.workers),
    )
    each = max(1, len(loader) // options.epochs // 10)
    used = [proportional() for step, _ in enumerate(loader, 1) if step % each == 0]
    first, last = np.mean(used[5:10]) / 1e6, np.mean(used[-5:]) / 1e6
    print(
        f"{options.epochs} epochs with {options.workers} workers: all processes together {first:.0f} MB in the second "
        f"half of the first epoch, {last:.0f} MB in that of the last, {max(used) / 1e6:.0f} MB at most"
    )
    return {"epochs_mb": [value / 1e6 for value in used]}


class Blank(FileSet):
    """Nothing is decoded; names are looked up as in training."""

    def read(self, i: int) -> np.ndarray:
        return np.full((8, 8, 3), len(self.name(i)), np.uint8)

    def cache(self, limit: int = 0) -> bool:
        return False


def resident() -> int:
    """Bytes of memory of this process now."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # no Linux: the most it ever had
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def proportional() -> int:
    """Bytes of this process and its workers together; pages that several share count once."""
    return sum(_pss(process) for process in (os.getpid(), *_children()))


def _children() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == os.getpid():
                yield int(name)


def _pss(process: int) -> int:
    try:
        with open(f"/proc/{process}/smaps_rollup", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0
