"""A million file names in two arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np


class NameTable:
    """Strings in two arrays: the bytes of all of them, uint8, and where each ends, int64 [n]."""

    def __init__(self, blob: np.ndarray, ends: np.ndarray) -> None:
        self.blob = blob
        self.ends = ends

    @classmethod
    def of(cls, names: Sequence[str]) -> NameTable:
        # fsencode keeps names that are not valid Unicode.
        parts = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), np.uint8), ends)

    @classmethod
    def joined(cls, tables: Sequence[NameTable]) -> NameTable:
        offsets = np.cumsum([0, *(len(table.blob) for table in tables)])
        ends = [table.ends + offset for table, offset in zip(tables, offsets, strict=False)]
        blobs = [table.blob for table in tables]
        return cls(np.concatenate(blobs), np.concatenate(ends)) if tables else cls.of([])

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> str:
        start = self.ends[i - 1] if i > 0 else 0
        return os.fsdecode(self.blob[start : self.ends[i]].tobytes())

    def encoded(self) -> Iterator[bytes]:
        """All names as bytes, in order."""
        block, start = self.blob.tobytes(), 0
        for end in self.ends.tolist():
            yield block[start:end]
            start = end

    def select(self, indices: np.ndarray) -> NameTable:
        # In chunks: the strings of a million names at once would take more than the table.
        chunks = [indices[first : first + 65536].tolist() for first in range(0, len(indices), 65536)]
        return NameTable.joined([NameTable.of([self[i] for i in chunk]) for chunk in chunks])
