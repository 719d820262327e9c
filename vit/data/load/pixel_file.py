"""Storage for pixel arrays of different sizes: blocks of memory, or a file."""

from __future__ import annotations

import errno
import io
import os
import shutil
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from vit.data.store.cache_folder import cache_folder
from vit.errors import UserError

BLOCK = 64 * 2**20
MAGIC = b"vitralpx"
SUFFIX = ".pixels"


@dataclass
class Places:
    """Where the pixels of each image are stored: start int64 [n], -1 if not stored; shape int32 [n, 2], (h, w), of the
    pixels; size int32 [n, 2], (H, W), of the original image.

    complete: whether all readable images are stored."""

    start: np.ndarray
    shape: np.ndarray
    size: np.ndarray
    complete: bool = True

    @classmethod
    def of(cls, n: int) -> Places:
        return cls(np.full(n, -1, np.int64), np.zeros((n, 2), np.int32), np.zeros((n, 2), np.int32))

    def select(self, indices: np.ndarray) -> Places:
        return Places(self.start[indices], self.shape[indices], self.size[indices], self.complete)


class Pixels(Protocol):
    bytes: int

    def at(self, start: int, size: Sequence[int]) -> np.ndarray:
        """uint8 [H, W, 3], read-only."""
        ...


class RamPixels:
    """Blocks of memory. Forked processes share them, since nothing writes to them; others get shared memory."""

    def __init__(self) -> None:
        self._blocks: list[torch.Tensor] = []
        self._used = BLOCK
        self.bytes = 0

    def __enter__(self) -> RamPixels:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, pixels: np.ndarray) -> int:
        """Store the pixels; returns their start."""
        flat = pixels.reshape(-1)
        if self._used + len(flat) > BLOCK:
            # An image larger than BLOCK gets a block of its own size.
            self._blocks.append(torch.empty(max(BLOCK, len(flat)), dtype=torch.uint8))
            self._used = 0
        start = (len(self._blocks) - 1) * 2**40 + self._used
        self._blocks[-1].numpy()[self._used : self._used + len(flat)] = flat
        self._used += len(flat)
        self.bytes += len(flat)
        return start

    def finish(self, places: Places) -> RamPixels:
        return self

    def at(self, start: int, size: Sequence[int]) -> np.ndarray:
        block, first = divmod(start, 2**40)
        h, w = size
        pixels = self._blocks[block].numpy()[first : first + h * w * 3].reshape(h, w, 3)
        pixels.flags.writeable = False
        return pixels


class DiskPixels:
    """A memory-mapped file: pixels, the places as an .npz, the offset of that .npz, and MAGIC."""

    def __init__(self, path: Path, bytes: int) -> None:
        self.path, self.bytes = path, bytes
        self._map: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def at(self, start: int, size: Sequence[int]) -> np.ndarray:
        if self._map is None:
            self._map = np.memmap(self.path, np.uint8, "r", shape=(self.bytes,))
        h, w = size
        return np.asarray(self._map[start : start + h * w * 3]).reshape(h, w, 3)


class PixelFolder:
    """The files of all runs, at most `limit` bytes together: the least recently used is removed first."""

    def __init__(self, limit: int) -> None:
        self.path, self.limit = cache_folder("pixels"), limit
        self._ours: set[str] = set()

    def find(self, name: str) -> tuple[DiskPixels, Places] | None:
        """The file of another run; None if there is none, or if it is incomplete and there is more room now."""
        path = self.path / f"{name}{SUFFIX}"
        try:
            pixels, places = _open(path)
        except Exception:  # missing, damaged, or of another form: written again
            return None
        if not places.complete and pixels.bytes < 0.99 * self.room(name):
            return None
        os.utime(path)
        self._ours.add(path.name)
        return pixels, places

    def room(self, name: str = "") -> int:
        """Bytes that a new file may take, within the limit minus the files of this run, and the free disk space."""
        self.path.mkdir(parents=True, exist_ok=True)
        taken = sum(self._size(file) for file in self._ours if file != f"{name}{SUFFIX}")
        old = sum(path.stat().st_size for path in self._files() if path.name not in self._ours)
        free = shutil.disk_usage(self.path).free + old
        return max(0, min(self.limit - taken, int(0.95 * free)))

    def writer(self, name: str) -> _Writer:
        self.path.mkdir(parents=True, exist_ok=True)
        return _Writer(self, self.path / f"{name}{SUFFIX}", step=min(BLOCK, self.limit // 16 + 1))

    def make_room(self, wanted: int) -> None:
        """Remove files of other runs until `wanted` more bytes fit. A removed file stays readable while in use."""
        others = [path for path in self._files() if path.name not in self._ours]
        others.sort(key=lambda path: path.stat().st_mtime)
        taken = sum(path.stat().st_size for path in self._files())
        while others and (taken + wanted > self.limit or shutil.disk_usage(self.path).free < wanted):
            taken -= others[0].stat().st_size
            others.pop(0).unlink(missing_ok=True)

    def keep(self, path: Path) -> None:
        self._ours.add(path.name)

    def _files(self) -> list[Path]:
        return [path for path in self.path.glob(f"*{SUFFIX}") if path.is_file()]

    def _size(self, name: str) -> int:
        path = self.path / name
        return path.stat().st_size if path.exists() else 0


class _Writer:
    """Writes a file under a temporary name until it is complete."""

    def __init__(self, folder: PixelFolder, path: Path, step: int) -> None:
        self._folder, self._path, self._step = folder, path, step
        self.bytes = 0
        self._made = 0

    def __enter__(self) -> _Writer:
        self._file = tempfile.NamedTemporaryFile(dir=self._path.parent, suffix=".tmp", delete=False)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._file.close()
        if error is not None:
            Path(self._file.name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{self._path.parent}: there is no space left. Free some, or try --cache ram.") from None

    def add(self, pixels: np.ndarray) -> int:
        start = self.bytes
        if start + pixels.nbytes > self._made:  # in steps, so that the disk is not queried for every image
            self._made = start + pixels.nbytes + self._step
            self._folder.make_room(self._made)
        self._file.write(np.ascontiguousarray(pixels).data)
        self.bytes += pixels.nbytes
        return start

    def finish(self, places: Places) -> DiskPixels:
        index = io.BytesIO()
        np.savez(
            index, start=places.start, shape=places.shape, size=places.size, complete=np.array(places.complete)
        )  # fmt: skip
        self._file.write(index.getbuffer())
        self._file.write(struct.pack("<Q", self.bytes) + MAGIC)
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._file.name, self._path)
        self._folder.keep(self._path)
        return DiskPixels(self._path, self.bytes)


def _open(path: Path) -> tuple[DiskPixels, Places]:
    with open(path, "rb") as file:
        file.seek(-16, os.SEEK_END)
        end = file.tell()
        (bytes,) = struct.unpack("<Q", (tail := file.read(16))[:8])
        if tail[8:] != MAGIC or bytes > end:
            raise ValueError(f"{path} is no file of pixels")
        file.seek(bytes)
        with np.load(io.BytesIO(file.read(end - bytes)), allow_pickle=False) as arrays:
            places = Places(arrays["start"], arrays["shape"], arrays["size"], bool(arrays["complete"]))
    sizes = places.shape.astype(np.int64).prod(axis=1) * 3
    inside = (places.start < 0) | ((places.shape > 0).all(axis=1) & (places.start + sizes <= bytes))
    if not len(places.size) == len(places.shape) == len(places.start) or not inside.all():
        raise ValueError(f"{path} is damaged")
    return DiskPixels(path, bytes), places
