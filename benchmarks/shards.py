"""Tar shards against single files: every image's bytes in the random order of an epoch, cold and again.

Cold: the system is asked to forget the files first. Nothing is decoded, since that takes the same time for both.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.contest import parsed, write
from vit.commands.data.pack import Pack, pack
from vit.data import ImageSet, open_data
from vit.data.load.sampling import epoch_order


@dataclass(frozen=True)
class Shards:
    files: int = 20_000
    kilobytes: int = 20
    """Of each file; half to one and a half times that."""
    rounds: int = 3
    folder: str | None = None
    """Where the files are made; on the disk that is to be measured."""
    json: str | None = None


def main(arguments: Sequence[str]) -> None:
    options = parsed(Shards, arguments, "shards", __doc__)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        photos, shards = Path(folder, "photos"), Path(folder, "shards")
        write_files(photos, options)
        pack(Pack(str(photos), str(shards), shard_mb=100))
        sets = {
            "files": open_data(str(photos), kind="labels").train,
            "shards": open_data(str(shards), kind="labels").train,
        }
        times: dict[str, list[float]] = {f"{name}, {when}": [] for name in sets for when in ("cold", "again")}
        for seed in range(options.rounds):
            for name, images in sets.items():
                forget(Path(folder, "photos" if name == "files" else "shards"))
                for when in ("cold", "again"):
                    times[f"{name}, {when}"].append(epoch(images, seed))
    n = len(sets["files"])
    for name, seconds in times.items():
        print(f"{name:<14} {n / median(seconds):9,.0f} files/s")
    for when in ("cold", "again"):
        pairs = zip(times[f"files, {when}"], times[f"shards, {when}"], strict=True)
        print(f"{when}: shards are {median(a / b for a, b in pairs):.2f} times as fast")
    write(options.json, {"files": n, "seconds": times})


def write_files(folder: Path, options: Shards) -> None:
    """train/CLASS/*.jpg and val/CLASS/*.jpg of random bytes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", options.files), ("val", 100)):
        for i in range(count):
            inside = folder / split / f"{i % 100:03d}"
            inside.mkdir(parents=True, exist_ok=True)
            (inside / f"{i:06d}.jpg").write_bytes(rng.bytes(int(options.kilobytes * rng.uniform(500, 1500))))


def forget(folder: Path) -> None:
    """Ask the system to drop what it holds of the files below a folder."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def epoch(images: ImageSet, seed: int) -> float:
    """Seconds to read every file."""
    order: Any = epoch_order(len(images), seed, 0).tolist()
    begun = time.perf_counter()
    for i in order:
        images.file(i)
    return time.perf_counter() - begun
