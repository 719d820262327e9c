"""Images that lie many to a file: a store gives them by row, a RowSet is some of the rows of one."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vit.data.sets.imageset import ImageSet
from vit.data.sets.window import Choose, View, decode_window
from vit.errors import UserError
from vit.images.preprocess import MAX_PIXELS, decode

# A file in a shard or a table larger than this is no image but a mistake, or an attack on the memory.
MAX_FILE = 256 * 2**20


class Store(Protocol):
    """Files by row, 0 to n - 1. What it has open is opened anew in every process."""

    def name(self, row: int) -> str:
        """What to call a row in a message: the file it is in, and where in it."""
        ...

    def key(self, row: int) -> bytes:
        """The name within the data, the same wherever the data lie."""
        ...

    def file(self, row: int) -> tuple[str, bytes]:
        """Suffix and bytes, as `ImageSet.file`."""
        ...

    def stamp(self) -> str:
        """As `ImageSet.stamp`, of all rows."""
        ...


class RowSet(ImageSet):
    """Rows of a store; `places` int64 [n] says which."""

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


def decode_named(content: bytes, name: str) -> np.ndarray:
    """Decode the bytes of an image file; `name` is what a UserError calls it."""
    return decode(named(content, name), max_pixels=MAX_PIXELS)


def named(content: bytes, name: str) -> Named:
    """An open file for `decode`; UserError if it is empty."""
    if not content:
        raise UserError(f"{name}: the file is empty (0 bytes). Replace or remove it.")
    return Named(content, name)


class Named(io.BytesIO):
    """An open file whose name `decode` finds."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name
