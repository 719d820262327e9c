"""Store a million file names in two arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

CHUNK = 65536
"""Names processed at a time; a million strings at once would take more memory than the table."""


class NameTable:
    """Strings in two arrays: uint8 bytes of all strings, and int64 [n] end offsets."""

    def __init__(self, blob: np.ndarray, ends: np.ndarray) -> None:
        self.blob = blob
        self.ends = ends

    @classmethod
    def of(cls, names: Sequence[str]) -> NameTable:
        # fsencode preserves names that are not valid Unicode.
        return cls.of_encoded([os.fsencode(name) for name in names])

    @classmethod
    def of_encoded(cls, parts: Sequence[bytes]) -> NameTable:
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
        for first in range(0, len(self), CHUNK):
            ends = self.ends[first : first + CHUNK]
            begin = int(self.ends[first - 1]) if first else 0
            block, start = self.blob[begin : int(ends[-1])].tobytes(), 0
            for end in (ends - begin).tolist():
                yield block[start:end]
                start = end

    def select(self, indices: np.ndarray) -> NameTable:
        starts = np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])
        lengths = (self.ends - starts)[indices] if len(self) else np.empty(0, np.int64)
        ends = np.cumsum(lengths, dtype=np.int64)
        blob = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        for first in range(0, len(ends), CHUNK):
            some = slice(first, first + CHUNK)
            begin, end = int(ends[first] - lengths[first]), int(ends[some][-1])
            # A byte keeps its distance from its name's first byte.
            shift = np.repeat(starts[indices[some]] - (ends[some] - lengths[some]), lengths[some])
            blob[begin:end] = self.blob[np.arange(begin, end) + shift]
        return NameTable(blob, ends)
