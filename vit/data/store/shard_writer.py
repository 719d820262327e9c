"""Write samples into tar shards in WebDataset's naming, readable by any WebDataset reader."""

from __future__ import annotations

import errno
import io
import os
import re
import tarfile
from collections.abc import Mapping
from typing import Any

from vit.errors import UserError

LONGEST_NAME = 60


def key_of(number: int, name: str) -> str:
    """The key of a sample: its number and its original file name, for traceability. No dots, since a dot ends a key."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", os.path.splitext(name)[0])[-LONGEST_NAME:].strip("_")
    return f"{number:08d}_{stem}" if stem else f"{number:08d}"


class ShardWriter:
    """Context manager that writes FOLDER/SPLIT-000000.tar, -000001.tar, ... of at most `limit` bytes each; a larger
    sample gets its own shard. Output is deterministic, and a shard gets its name only when complete."""

    def __init__(self, folder: str, split: str, limit: int) -> None:
        self.folder, self.split, self.limit = folder, split, limit
        self.files: list[str] = []
        self._archive: tarfile.TarFile | None = None
        self._used = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self._finish()
        elif self._archive is not None:
            self._archive.fileobj.close()  # type: ignore[union-attr]
            os.unlink(self._path(temporary=True))
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{self.folder}: there is no space left. Free some, and write the shards again.") from None

    def add(self, key: str, parts: Mapping[str, bytes]) -> None:
        """Add one sample: {".jpg": its image, ".cls": its label}."""
        # Each part takes a header block and whole blocks of data; two more blocks end the archive, which is padded to
        # a whole record.
        size = sum(512 + _whole(len(content), tarfile.BLOCKSIZE) for content in parts.values())
        if self._archive is not None and _whole(self._used + size + 1024, tarfile.RECORDSIZE) > self.limit:
            self._finish()
        if self._archive is None:
            self._archive = tarfile.open(self._path(temporary=True), "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self._used = 0
        for ending, content in parts.items():
            member = tarfile.TarInfo(key + ending)
            member.size = len(content)
            self._archive.addfile(member, io.BytesIO(content))
        self._used += size

    def _finish(self) -> None:
        if self._archive is None:
            return
        self._archive.close()
        path = self._path(temporary=True)
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        os.replace(path, self._path())
        self.files.append(os.path.basename(self._path()))
        self._archive = None

    def _path(self, temporary: bool = False) -> str:
        name = f"{self.split}-{len(self.files):06d}.tar"
        return os.path.join(self.folder, f".{name}.tmp" if temporary else name)


def _whole(size: int, unit: int) -> int:
    """Round up to a multiple of `unit`."""
    return -(-size // unit) * unit
