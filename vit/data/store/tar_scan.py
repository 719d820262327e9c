"""List the names, offsets and sizes of a tar file's members without extracting anything."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from vit.data.sets.rows import MAX_FILE
from vit.errors import UserError


class Member(NamedTuple):
    """A file in a tar file: `size` bytes starting at `offset`."""

    name: str
    offset: int
    size: int


def scan(path: str) -> Iterator[Member]:
    """Yield the regular files of a tar file, in order, skipping folders.

    Raises UserError for links, devices, sparse files, absolute names, names with ".." or control characters, members
    above MAX_FILE bytes (naming the member), and for a compressed, truncated or damaged archive.
    """
    try:
        whole = os.path.getsize(path)
        archive = tarfile.open(path, "r:")  # noqa: SIM115, closed below
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except tarfile.TarError:
        raise UserError(f"{path}: is not a plain tar file.{_compressed(path)}") from None
    with archive:
        while True:
            try:
                member = archive.next()
            except (tarfile.TarError, OSError, ValueError) as error:
                raise UserError(f"{path}: is cut off or damaged ({error}). Fetch or write it again.") from None
            if member is None:
                break
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep a million of them
            if member.isdir():
                continue
            _refuse(path, member)
            if member.offset_data + member.size > whole:
                raise UserError(f"{path}: is cut off within {member.name}. Fetch or write it again.")
            yield Member(member.name, member.offset_data, member.size)
        end = archive.offset  # type: ignore[attr-defined]
    # tarfile treats a damaged header as the end of the archive and silently drops the rest.
    with open(path, "rb") as file:
        file.seek(end)
        mark = file.read(tarfile.BLOCKSIZE)
    if any(mark):
        raise UserError(f"{path}: is damaged at byte {end:,} of {whole:,}. Fetch or write it again.")
    if len(mark) < tarfile.BLOCKSIZE:
        raise UserError(f"{path}: is cut off: what ends an archive is missing. Fetch or write it again.")


def _refuse(path: str, member: tarfile.TarInfo) -> None:
    """Raise UserError for unsafe members: nothing is extracted, but keys become file names elsewhere."""
    parts = member.name.replace("\\", "/").split("/")
    what = None
    if member.issym() or member.islnk():
        what = "a link"
    elif not member.isreg():
        what = "no regular file"
    elif member.issparse():
        what = "a sparse file"
    elif ".." in parts or parts[0] == "" or (parts[0][1:2] == ":" and parts[0][:1].isalpha()):
        what = "a name that leads out of its folder"
    elif "\0" in member.name or "\n" in member.name:
        what = "a name with a control character"
    elif member.size > MAX_FILE:
        what = f"{member.size:,} bytes, more than the limit of {MAX_FILE:,}"
    if what is not None:
        raise UserError(f"{path}: its member {member.name!r} is {what}: refused. Write the shard without it.")


def _compressed(path: str) -> str:
    with open(path, "rb") as file:
        begin = file.read(6)
    for signature, tool in (
        (b"\x1f\x8b", "gunzip"),
        (b"BZh", "bunzip2"),
        (b"\xfd7zXZ", "unxz"),
        (b"(\xb5/\xfd", "unzstd"),
    ):
        if begin.startswith(signature):
            return f" It is compressed, which leaves no way to read one image alone: {tool} it first."
    return ""
