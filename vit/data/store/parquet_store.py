"""Read image files from rows of Parquet files, one row group at a time."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit.data.sets.rows import MAX_FILE, stamp_of
from vit.data.store.arrow import damaged, open_parquet_file
from vit.errors import UserError

# Bytes of row groups that a process caches: rows come in random order, and each needs its whole group decoded.
KEPT_BYTES = 128 * 2**20


class ParquetStore:
    """The column `column` of some files: a struct with the field bytes (and path), or plain bytes.

    files: relative to root. Rows are numbered across the files in this order.
    """

    def __init__(self, root: str, files: Sequence[str], column: str) -> None:
        self.root, self.files, self.column = root, tuple(files), column
        groups: list[int] = []
        file_of: list[int] = []
        self.bytes = 0
        """Compressed size of the column in all files."""
        for number, file in enumerate(files):
            opened = open_parquet_file(os.path.join(root, file))
            wanted = _leaves(opened, column)
            for g in range(opened.metadata.num_row_groups):
                group = opened.metadata.row_group(g)
                groups.append(group.num_rows)
                file_of.append(number)
                self.bytes += sum(group.column(k).total_compressed_size for k in wanted)
        self._ends = np.cumsum(groups, dtype=np.int64)
        self._file_of = np.array(file_of, np.int64)
        self._first = np.searchsorted(self._file_of, np.arange(len(files)))
        """The first row group of each file."""
        self._forget()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}, "_kept": OrderedDict()}

    @property
    def groups(self) -> int:
        return len(self._ends)

    def name(self, row: int) -> str:
        file, k = self._place(row)
        return f"{os.path.join(self.root, self.files[file])}, row {k}"

    def key(self, row: int) -> bytes:
        file, k = self._place(row)
        return b"%s:%d" % (os.fsencode(self.files[file]), k)

    def file(self, row: int) -> tuple[str, bytes]:
        group = int(np.searchsorted(self._ends, row, side="right"))
        value = self._group(group)[row - self._start(group)].as_py()
        if isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
        else:
            content, path = value, None
        if content is None and path is not None:
            content = self._beside(row, path)
        if content is None:
            raise UserError(f"{self.name(row)}: there is no image. Remove the row.")
        if len(content) > MAX_FILE:
            raise UserError(f"{self.name(row)}: {len(content):,} bytes are more than an image's limit of {MAX_FILE:,}.")
        return os.path.splitext(path or "")[1].lower() or suffix_of(content), content

    def stamp(self) -> str:
        return stamp_of(self.root, self.files)

    def _start(self, group: int) -> int:
        return int(self._ends[group - 1]) if group else 0

    def _place(self, row: int) -> tuple[int, int]:
        """File index and 0-based row in it."""
        file = int(self._file_of[np.searchsorted(self._ends, row, side="right")])
        return file, row - self._start(int(self._first[file]))

    def _beside(self, row: int, path: str) -> bytes:
        """Read the image of a row that has only a path, which must stay inside root."""
        folder = os.path.dirname(os.path.join(self.root, self.files[self._place(row)[0]]))
        for base in (folder, self.root):
            file = os.path.realpath(os.path.join(base, path))
            inside = os.path.commonpath([file, os.path.realpath(self.root)]) == os.path.realpath(self.root)
            if inside and os.path.isfile(file):
                with open(file, "rb") as opened:
                    return opened.read()
        raise UserError(f"{self.name(row)}: holds no bytes, and {path} is not in {self.root}. Add the image.")

    def _group(self, group: int) -> Any:
        """The column in one row group, a pyarrow ChunkedArray; recently used groups are cached."""
        if self._process != os.getpid():
            self._forget()  # file handles and cache of the parent process
        if group in self._kept:
            self._kept.move_to_end(group)
            return self._kept[group]
        file = int(self._file_of[group])
        path = os.path.join(self.root, self.files[file])
        if file not in self._opened:
            if len(self._opened) >= 32:  # systems limit open files
                self._opened.clear()
            self._opened[file] = open_parquet_file(path)
        try:
            inside = group - int(self._first[file])
            table = self._opened[file].read_row_group(inside, columns=[self.column], use_threads=False)
        except Exception as error:
            raise damaged(path, error) from None
        column = table.column(self.column)
        while self._kept and sum(kept.nbytes for kept in self._kept.values()) + column.nbytes > KEPT_BYTES:
            self._kept.popitem(last=False)
        self._kept[group] = column
        return column

    def _forget(self) -> None:
        self._process = os.getpid()
        self._opened: dict[int, Any] = {}
        self._kept: OrderedDict[int, Any] = OrderedDict()


def _leaves(opened: Any, column: str) -> list[int]:
    """Indices of a column's leaves among the columns of a row group."""
    schema = opened.metadata.schema
    return [k for k in range(len(schema)) if schema.column(k).path.split(".")[0] == column]


def suffix_of(content: bytes) -> str:
    """The suffix of an image file, from its first bytes."""
    signatures = {
        b"\xff\xd8": ".jpg",
        b"\x89PNG": ".png",
        b"GIF8": ".gif",
        b"BM": ".bmp",
        b"II*\0": ".tif",
        b"MM\0*": ".tif",
    }
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for begin, suffix in signatures.items() if content.startswith(begin)), ".jpg")
