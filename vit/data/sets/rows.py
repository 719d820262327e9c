"""Many images per file: a store returns them by row, and a RowSet is a subset of its rows."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vit.data.sets.imageset import ImageSet
from vit.data.sets.window import Choose, View, decode_window
from vit.errors import UserError
from vit.images.preprocess import MAX_PIXELS, decode

# Bytes. A larger file in a shard or a table is a mistake or a memory attack, not an image.
MAX_FILE = 256 * 2**20


class Store(Protocol):
    """Files by row, 0 to n - 1. Each process reopens its file handles."""

    def name(self, row: int) -> str:
        """Name of a row in messages: its file and its place there."""
        ...

    def key(self, row: int) -> bytes:
        """Name within the data, independent of the data's location."""
        ...

    def file(self, row: int) -> tuple[str, bytes]:
        """Suffix and bytes, as `ImageSet.file`."""
        ...

    def stamp(self) -> str:
        """As `ImageSet.stamp`, of all rows."""
        ...


class RowSet(ImageSet):
    """Rows of a store; `places` int64 [n] are their indices."""

    def __init__(self, classes: Sequence[str], targets: np.ndarray, store: Store, places: np.ndarray) -> None:
        super().__init__(classes, targets)
        self.store, self.places = store, places

    def name(self, i: int) -> str:
        return self.store.name(int(self.places[i]))

    def key(self, i: int) -> bytes:
        return self.store.key(int(self.places[i]))

    def file(self, i: int) -> tuple[str, bytes]:
        return self.store.file(int(self.places[i]))

    def read(self, i: int) -> np.ndarray:
        return decode_named(self.file(i)[1], self.name(i))

    def read_part(self, i: int, choose: Choose) -> View:
        return decode_window(named(self.file(i)[1], self.name(i)), choose, max_pixels=MAX_PIXELS)

    def select(self, indices: np.ndarray) -> RowSet:
        return RowSet(self.classes, self.targets[indices], self.store, self.places[indices])

    def stamp(self) -> str:
        return hashlib.blake2b(self.store.stamp().encode() + self.places.tobytes(), digest_size=16).hexdigest()


def stamp_of(root: str, files: Sequence[str]) -> str:
    """Digest of the names, sizes and modification times of the files of a store."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        status = os.stat(os.path.join(root, file))
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def decode_named(content: bytes, name: str) -> np.ndarray:
    """Decode the bytes of an image file; `name` is used in a UserError."""
    return decode(named(content, name), max_pixels=MAX_PIXELS)


def named(content: bytes, name: str) -> Named:
    """Wrap bytes as an open file for `decode`. Raises UserError if they are empty."""
    if not content:
        raise UserError(f"{name}: the file is empty (0 bytes). Replace or remove it.")
    return Named(content, name)


class Named(io.BytesIO):
    """An in-memory file with a name for `decode`."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name
